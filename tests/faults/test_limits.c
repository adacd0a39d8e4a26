// Limits of the system under a ledger file: no descriptor, no room, a file system that is
// read-only, full, or fills up while the ledger grows. Never a SIGBUS: the program runs as bare,
// and what is missing is said. (No memory, no address space, a log on a full disk:
// tests/preload/test_bad_days.c.)
#include "base/sys.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static __attribute__((noinline)) int leak_here(void) { // by its name in a report
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    printf("recv %ld\n", (long)recv(pair.server, &byte, 1, 0));
    return pair.server;
}

// --- descriptors --------------------------------------------------------------------------------

enum {
    DESCRIPTORS = 64
};

static void take_all(void) {
    struct rlimit limit = {DESCRIPTORS, DESCRIPTORS};
    setrlimit(RLIMIT_NOFILE, &limit);
    while (sys_call(SYS_dup, 0, 0, 0, 0, 0, 0) >= 0)
        ;
}

// The first socket takes the last one: there is none to open a ledger file with. Then there are as
// many as the leak needs.
static int last_descriptors(void) {
    take_all();
    sys_close(DESCRIPTORS - 1);
    close(socket(AF_INET, SOCK_STREAM, 0));
    sys_close(DESCRIPTORS - 2);
    sys_close(DESCRIPTORS - 3);
    leak_here();
    printf("socket %d", socket(AF_INET, SOCK_STREAM, 0));
    printf(", errno %d\n", errno);
    int last = socket(AF_INET, SOCK_STREAM, 0); // the listener's and the client's were closed
    last = last < 0 ? last : socket(AF_INET, SOCK_STREAM, 0);
    printf("then %d\n", last);
    return 3;
}

// --- file systems -------------------------------------------------------------------------------

static int mount_at_mnt(const char *options, unsigned long flags) {
    return unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
           mount("none", "/mnt", "tmpfs", flags, options) != 0;
}

static int read_only(void) {
    if (mount_at_mnt("size=64k", MS_RDONLY))
        return RIG_SKIPPED;
    leak_here();
    return 3;
}

static void fill(void) {
    static const char page[4096];
    int fd = open("/mnt/filler", O_CREAT | O_WRONLY | O_APPEND, 0600);
    while (write(fd, page, sizeof page) > 0)
        ;
    close(fd);
}

enum {
    SOCKETS = 1500 // more than the records that the first growth step has room for
};

static void grow(void) {
    struct rlimit limit = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &limit);
    int last = -1;
    for (int i = 0; i < SOCKETS; i++)
        last = socket(AF_INET, SOCK_STREAM, 0);
    printf("last %d\n", last);
}

static int fills_up(void) {
    if (mount_at_mnt("size=4m", 0))
        return RIG_SKIPPED;
    leak_here();
    fill();
    grow();
    return 3;
}

static int fills_up_before_a_fork(void) {
    int status;
    if (mount_at_mnt("size=4m", 0))
        return RIG_SKIPPED;
    close(leak_here());
    fill();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        leak_here();
        grow();
        exit(4);
    }
    waitpid(pid, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    leak_here();
    return 3;
}

// Every size from nothing to enough: each step of the ledger's creation and growth meets the end.
static int any_size(void) {
    char options[32];
    snprintf(options, sizeof options, "size=%sk", getenv("SIZE_KB"));
    if (mount_at_mnt(options, 0))
        return RIG_SKIPPED;
    leak_here();
    grow();
    return 3;
}

static int small_files(void) {
    struct rlimit limit = {256 << 10, 256 << 10};
    setrlimit(RLIMIT_FSIZE, &limit);
    leak_here();
    grow();
    return 3;
}

static const struct rig_scenario scenarios[] = {
    {"last_descriptors", last_descriptors},
    {"read_only", read_only},
    {"fills_up", fills_up},
    {"fills_up_before_a_fork", fills_up_before_a_fork},
    {"any_size", any_size},
    {"small_files", small_files},
};

// --- the claims ---------------------------------------------------------------------------------

static struct rig_result result;

static void as_bare(const char *scenario, const char *options) {
    rig_assert_same_as_bare_or_skip(scenario, options, &result);
    assert_int_equal(result.status, 3 << 8);
}

static void assert_said(const char *words) {
    rig_assert_said(&result, words);
}

static void without_a_descriptor_left_the_leak_is_found(void **state) {
    (void)state;
    as_bare("last_descriptors", NULL);
    assert_int_equal(rig_count(result.err, "1 socket, eof-ignored"), 1);
    assert_said("leak_here+0x");
    assert_null(strstr(result.err, "cannot be read"));
}

static void without_a_descriptor_left_private_memory_replaces_the_ledger_file(void **state) {
    (void)state;
    as_bare("last_descriptors", "ledger_dir=/tmp");
    assert_int_equal(rig_count(result.err, "at exit of"), 1);
    assert_int_equal(rig_count(result.err, "1 socket, eof-ignored"), 1);
}

static void on_a_read_only_file_system_the_report_is_on_stderr(void **state) {
    (void)state;
    as_bare("read_only", "ledger_dir=/mnt");
    assert_int_equal(rig_count(result.err, "eof-ignored"), 1);
    assert_said("leak_here");
    as_bare("read_only", "log_path=/mnt/log");
    assert_int_equal(rig_count(result.err, "eof-ignored"), 1);
    assert_said("read-only file system");
}

static void a_file_system_that_fills_up_costs_what_was_not_tracked(void **state) {
    (void)state;
    as_bare("fills_up", "ledger_dir=/mnt:verbosity=1");
    assert_int_equal(rig_count(result.err, "eof-ignored"), 1);
    assert_said(" sockets not tracked: ");
}

static void a_child_of_a_full_file_system_has_private_memory(void **state) {
    (void)state;
    as_bare("fills_up_before_a_fork", "ledger_dir=/mnt:verbosity=1:exit_grace_ms=0");
    assert_int_equal(rig_reports(result.err), 2);
    assert_int_equal(rig_count(result.err, "eof-ignored"), 2);
}

static void a_file_system_of_any_size_raises_no_sigbus(void **state) {
    (void)state;
    char size[16];
    for (int kb = 4; kb <= 1024; kb += kb < 64 ? 4 : kb < 256 ? 16 : 64) {
        snprintf(size, sizeof size, "%d", kb);
        setenv("SIZE_KB", size, 1);
        as_bare("any_size", "ledger_dir=/mnt:verbosity=1");
        assert_int_equal(rig_reports(result.err), 1);
        if (rig_count(result.err, "1 socket, eof-ignored") != 1)
            assert_said(" open sockets could not be judged: ledger full");
    }
    unsetenv("SIZE_KB");
}

static void where_files_must_be_small_private_memory_replaces_the_ledger_file(void **state) {
    (void)state;
    as_bare("small_files", "ledger_dir=/tmp");
    assert_int_equal(rig_reports(result.err), 1);
    assert_int_equal(rig_count(result.err, "eof-ignored"), 1);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_descriptor_left_the_leak_is_found),
        cmocka_unit_test(without_a_descriptor_left_private_memory_replaces_the_ledger_file),
        cmocka_unit_test(on_a_read_only_file_system_the_report_is_on_stderr),
        cmocka_unit_test(a_file_system_that_fills_up_costs_what_was_not_tracked),
        cmocka_unit_test(a_child_of_a_full_file_system_has_private_memory),
        cmocka_unit_test(a_file_system_of_any_size_raises_no_sigbus),
        cmocka_unit_test(where_files_must_be_small_private_memory_replaces_the_ledger_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
