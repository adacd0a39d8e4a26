// Bad days: memory, libunwind, /proc, descriptors and room that are not there. The program runs as
// bare, and the report, or one line, says what is missing.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static __attribute__((noinline)) int leak(void) { // by its name in a report
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    printf("recv %ld\n", (long)recv(pair.server, &byte, 1, 0));
    return pair.server;
}

// --- memory -------------------------------------------------------------------------------------

// From now on this system call fails with ENOMEM where its third argument (mmap's and mprotect's
// protection) is `protection`.
static int deny(int number, unsigned protection) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, protection, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    // Not by libc's prctl: the library would see a sandbox, and keep still.
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                   sys_call(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter, 0, 0,
                            0) == 0
               ? 0
               : -1;
}

static int no_ledger(void) {
    if (deny(SYS_mmap, PROT_NONE) != 0)
        return RIG_SKIPPED;
    leak();
    return 3;
}

// As much address space as the process has, and a little.
static int limit_addresses(size_t more_bytes) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu", &pages) != 1)
        return -1;
    fclose(file);
    struct rlimit limit = {pages * 4096 + more_bytes, RLIM_INFINITY};
    return setrlimit(RLIMIT_AS, &limit);
}

static int no_addresses(void) {
    if (limit_addresses(256 << 10) != 0)
        return RIG_SKIPPED;
    leak();
    return 3;
}

static int few_addresses(void) {
    if (limit_addresses(16 << 20) != 0)
        return RIG_SKIPPED;
    leak();
    return 3;
}

enum {
    MANY = 1500 // more than the records that the first growth step has room for
};

static int no_growth(bool leak_first) {
    struct rlimit files = {4096, 4096};
    close(socket(AF_INET, SOCK_STREAM, 0));
    if (leak_first)
        leak();
    if (setrlimit(RLIMIT_NOFILE, &files) != 0 || deny(SYS_mprotect, PROT_READ | PROT_WRITE) != 0)
        return RIG_SKIPPED;
    int last = -1;
    for (int i = 0; i < MANY; i++)
        last = socket(AF_INET, SOCK_STREAM, 0);
    printf("last %d\n", last);
    if (!leak_first)
        leak();
    return 3;
}

static int no_growth_after_a_leak(void) {
    return no_growth(true);
}

static int no_growth_before_a_leak(void) {
    return no_growth(false);
}

// --- stacks -------------------------------------------------------------------------------------

// A different stack for each number: two call sites, taken by its bits.
static __attribute__((noinline)) int by_bits(unsigned number, int bits) {
    if (bits == 0) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        close(fd);
        return fd;
    }
    int fd = number & 1 ? by_bits(number >> 1, bits - 1) : -1;
    USE(fd);
    if ((number & 1) == 0)
        fd = by_bits(number >> 1, bits - 1);
    USE(fd);
    return fd;
}

static int full_stack_table(void) {
    int last = -1;
    for (unsigned i = 0; i < 1u << 17; i++)
        last = by_bits(i, 17);
    printf("last %d\n", last);
    leak();
    return 3;
}

// --- descriptors --------------------------------------------------------------------------------

// Where addresses are short the table of descriptors is small: 4096 of them.
static int beyond_the_small_table(void) {
    struct rlimit files = {20000, 20000};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0 || limit_addresses(4 << 20) != 0)
        return RIG_SKIPPED;
    int fd = leak(), high = fcntl(fd, F_DUPFD, 10000);
    close(fd);
    int other = fcntl(socket(AF_INET, SOCK_STREAM, 0), F_DUPFD, 12000);
    printf("numbers %d %d\n", high, other);
    rig_wait_state(high, TCP_CLOSE_WAIT, 150);
    printf("close %d\n", close(other));
    return 3;
}

static int beyond_the_largest_table(void) {
    struct rlimit files = {(1 << 20) + 64, (1 << 20) + 64};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        return RIG_SKIPPED; // fs.nr_open is lower
    int fd = leak(), high = fcntl(fd, F_DUPFD, (1 << 20) + 7);
    close(fd);
    printf("number %d\n", high);
    rig_wait_state(high, TCP_CLOSE_WAIT, 150);
    return 3;
}

// --- files --------------------------------------------------------------------------------------

static int no_proc(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        umount2("/proc", MNT_DETACH) != 0)
        return RIG_SKIPPED;
    int fd = leak();
    printf("no /proc: %d, fd %d\n", access("/proc/self", F_OK), fd);
    return 3;
}

static int plain_leak(void) {
    leak();
    return 3;
}

static int file_size_limit(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_FSIZE, &none);
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    recv(pair.server, &byte, 1, 0);
    return 3; // nothing printed: stdout is a file, too, and bare that would raise SIGXFSZ
}

static int full_disk(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/mnt", "tmpfs", 0, "size=16k") != 0)
        return RIG_SKIPPED;
    char page[4096] = {0};
    int fd = open("/mnt/filler", O_CREAT | O_WRONLY, 0600);
    while (write(fd, page, sizeof page) > 0)
        ;
    close(fd);
    leak();
    return 3;
}

static const struct rig_scenario scenarios[] = {
    {"no_ledger", no_ledger},
    {"no_addresses", no_addresses},
    {"few_addresses", few_addresses},
    {"no_growth_after_a_leak", no_growth_after_a_leak},
    {"no_growth_before_a_leak", no_growth_before_a_leak},
    {"full_stack_table", full_stack_table},
    {"beyond_the_small_table", beyond_the_small_table},
    {"beyond_the_largest_table", beyond_the_largest_table},
    {"no_proc", no_proc},
    {"leak", plain_leak},
    {"file_size_limit", file_size_limit},
    {"full_disk", full_disk},
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

static void a_ledger_that_cannot_be_created_is_one_line(void **state) {
    (void)state;
    as_bare("no_ledger", NULL);
    assert_said("no memory for the ledger: sockets were not followed");
    assert_int_equal(rig_count(result.err, "\n"), 1);
    as_bare("no_ledger", "ledger_dir=/nonexistent");
    assert_said("no memory for the ledger");
}

static void no_address_space_at_all_is_one_line(void **state) {
    (void)state;
    as_bare("no_addresses", NULL);
    assert_said("no memory for the ledger");
}

static void little_address_space_makes_a_smaller_ledger(void **state) {
    (void)state;
    as_bare("few_addresses", NULL);
    assert_int_equal(rig_reports(result.err), 1);
    assert_said("1 socket left in CLOSE_WAIT");
}

static void a_ledger_that_cannot_grow_says_how_many_it_lost(void **state) {
    (void)state;
    as_bare("no_growth_after_a_leak", NULL);
    assert_int_equal(rig_reports(result.err), 1);
    assert_said("eof-ignored");
    assert_said(" sockets not tracked: ledger full, or no memory for it");
    as_bare("no_growth_before_a_leak", NULL);
    assert_said(" open sockets could not be judged: ledger full");
}

static void a_full_stack_table_says_how_many_it_lost(void **state) {
    (void)state;
    as_bare("full_stack_table", NULL);
    assert_said("eof-ignored");
    assert_said(" stacks not recorded: stack table full, or no memory for it");
}

static void a_number_beyond_the_table_is_said_and_its_socket_found(void **state) {
    (void)state;
    as_bare("beyond_the_small_table", NULL);
    assert_said("file descriptor beyond the ledger's table");
    assert_said("1 socket left in CLOSE_WAIT");
    assert_said("fd 10000");
}

static void a_number_beyond_the_largest_table_is_said(void **state) {
    (void)state;
    as_bare("beyond_the_largest_table", NULL);
    assert_said("file descriptor beyond the ledger's table");
}

// A file of that name that is no library comes first in the search path.
static void a_missing_libunwind_leaves_one_frame_and_one_line(void **state) {
    (void)state;
    char dir[] = "/tmp/sockleak-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libunwind.so.8", dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    setenv("LD_LIBRARY_PATH", dir, 1);
    as_bare("leak", NULL);
    unsetenv("LD_LIBRARY_PATH");
    unlink(path);
    rmdir(dir);
    assert_int_equal(rig_reports(result.err), 1);
    assert_said("libunwind.so.8 cannot be loaded: stacks are one frame deep");
    assert_said("eof-ignored");
    assert_said("#0 leak+");
    assert_null(strstr(result.err, "#1 "));
}

static void without_proc_sockets_are_found_by_trying(void **state) {
    (void)state;
    as_bare("no_proc", NULL);
    assert_int_equal(rig_reports(result.err), 1);
    assert_said("eof-ignored");
    assert_said("cannot be read: file descriptors were tried one by one");
}

static void nonsense_in_the_options_is_named_and_the_default_used(void **state) {
    (void)state;
    as_bare("leak",
            "nonsense=1:stack_depth=9999:signal=FOO:grace_ms=soon:exitcode=-1:=:max_sockets:"
            "\x1b[31m=x");
    const char *const names[] = {"'nonsense'", "stack_depth='9999'", "signal='FOO'",
                                 "grace_ms='soon'", "exitcode='-1'"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(rig_count(result.err, names[i]), 1);
    assert_null(strchr(result.err, '\x1b'));
    assert_said("1 to 128");
    assert_int_equal(rig_reports(result.err), 1);
}

static void a_log_that_may_not_grow_leaves_the_program_alone(void **state) {
    (void)state;
    char options[] = "log_path=/tmp/sockleak-test-XXXXXX/log", *dir = options + strlen("log_path=");
    char *slash = strrchr(options, '/');
    *slash = '\0';
    assert_non_null(mkdtemp(dir));
    *slash = '/';
    as_bare("file_size_limit", options);
    unlink(dir);
    *slash = '\0';
    rmdir(dir);
    // stderr is a file here, and may not grow either: that we are still bare is all there is to
    // see.
}

static void a_full_disk_under_the_log_is_said_on_stderr(void **state) {
    (void)state;
    as_bare("full_disk", "log_path=/mnt/log");
    assert_said("log_path");
    assert_said("no space left");
}

static void a_full_disk_under_the_ledger_file_leaves_private_memory(void **state) {
    (void)state;
    as_bare("full_disk", "ledger_dir=/mnt");
    assert_int_equal(rig_reports(result.err), 1);
    assert_said("eof-ignored");
    assert_said("no ledger could be kept in ledger_dir");
}

static void a_directory_that_can_hold_no_ledger_is_said(void **state) {
    (void)state;
    static const char *const unusable[] = {"/nonexistent", "/proc", "/dev/null"};
    for (size_t i = 0; i < sizeof unusable / sizeof *unusable; i++) {
        char options[64];
        snprintf(options, sizeof options, "ledger_dir=%s", unusable[i]);
        as_bare("leak", options);
        assert_int_equal(rig_reports(result.err), 1);
        assert_said("no ledger could be kept in ledger_dir");
    }
    as_bare("leak", NULL);
    assert_int_equal(rig_count(result.err, "ledger_dir"), 0);
}

static void an_existing_file_is_never_overwritten(void **state) {
    (void)state;
    char path[] = "/tmp/sockleak-test-XXXXXX", options[64], text[16] = "";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "precious", 8), 8);
    snprintf(options, sizeof options, "log_path=%s", path);
    as_bare("leak", options);
    assert_int_equal(pread(fd, text, sizeof text, 0), 8);
    assert_string_equal(text, "precious");
    assert_said("it exists already");
    assert_int_equal(rig_reports(result.err), 1);
    close(fd);
    unlink(path);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_ledger_that_cannot_be_created_is_one_line),
        cmocka_unit_test(no_address_space_at_all_is_one_line),
        cmocka_unit_test(little_address_space_makes_a_smaller_ledger),
        cmocka_unit_test(a_ledger_that_cannot_grow_says_how_many_it_lost),
        cmocka_unit_test(a_full_stack_table_says_how_many_it_lost),
        cmocka_unit_test(a_number_beyond_the_table_is_said_and_its_socket_found),
        cmocka_unit_test(a_number_beyond_the_largest_table_is_said),
        cmocka_unit_test(a_missing_libunwind_leaves_one_frame_and_one_line),
        cmocka_unit_test(without_proc_sockets_are_found_by_trying),
        cmocka_unit_test(nonsense_in_the_options_is_named_and_the_default_used),
        cmocka_unit_test(a_log_that_may_not_grow_leaves_the_program_alone),
        cmocka_unit_test(a_full_disk_under_the_log_is_said_on_stderr),
        cmocka_unit_test(a_full_disk_under_the_ledger_file_leaves_private_memory),
        cmocka_unit_test(a_directory_that_can_hold_no_ledger_is_said),
        cmocka_unit_test(an_existing_file_is_never_overwritten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
