// Deaths and duplicates: each call that closes takes the record off, each that does not leaves it,
// and a socket lives until its last fd is gone. The inode behind each fd is the kernel's word.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int __close(int fd);
int __dup2(int fd, int to);
int __fcntl(int fd, int command, ...);

static int a_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(view_is_tracked(fd));
    return fd;
}

static uint64_t closed(void) {
    return view_ledger()->counters.closed;
}

static void assert_gone(int fd, uint64_t closed_before) {
    struct stat status;
    assert_int_equal(sys_fstat(fd, &status), -EBADF);
    assert_int_equal(view_number(fd), 0);
    assert_int_equal(closed(), closed_before + 1);
}

// --- one fd -------------------------------------------------------------------------------------

static void by_close(int fd) {
    assert_int_equal(close(fd), 0);
}

static void by___close(int fd) {
    assert_int_equal(__close(fd), 0);
}

static void by_sys_close(int fd) {
    assert_int_equal(syscall(SYS_close, fd), 0);
}

static void by_close_range(int fd) {
    assert_int_equal(close_range((unsigned)fd, (unsigned)fd, 0), 0);
}

static void by_sys_close_range(int fd) {
    assert_int_equal(syscall(SYS_close_range, (long)fd, (long)fd, 0L), 0);
}

static void by_closefrom(int fd) {
    closefrom(fd);
}

static void by_fclose(int fd) {
    assert_int_equal(fclose(fdopen(fd, "r+")), 0);
}

static const struct {
    const char *name;
    void (*close)(int fd);
} closers[] = {
    {"close", by_close},
    {"__close", by___close},
    {"syscall(SYS_close)", by_sys_close},
    {"close_range", by_close_range},
    {"syscall(SYS_close_range)", by_sys_close_range},
    {"closefrom", by_closefrom},
    {"fclose", by_fclose},
};

static void a_close_ends_the_record(void **state) {
    void (*close_it)(int) = *(void (**)(int)) * state;
    int low = a_socket(), fd = fcntl(low, F_DUPFD, 700); // closefrom closes all above, too
    close(low);
    uint64_t before = closed();
    close_it(fd);
    assert_gone(fd, before);
}

static void a_failed_close_counts_nothing(void **state) {
    (void)state;
    uint64_t before = closed();
    assert_int_equal(close(-1), -1);
    assert_int_equal(close(999), -1);
    assert_int_equal(close_range(5, 4, 0), -1);
    assert_int_equal(close_range(0, ~0u, 1 << 20), -1);
    assert_int_equal(closed(), before);
}

static void the_flags_of_close_range_are_honoured(void **state) {
    (void)state;
    int fd = a_socket();
    uint64_t before = closed();
    assert_int_equal(close_range((unsigned)fd, UINT_MAX, CLOSE_RANGE_CLOEXEC), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(view_is_tracked(fd));
    assert_int_equal(close_range((unsigned)fd, (unsigned)fd, 1 << 20), -1);
    assert_true(view_is_tracked(fd));
    assert_int_equal(syscall(SYS_close_range, (long)fd, (long)fd, (long)CLOSE_RANGE_CLOEXEC), 0);
    assert_true(view_is_tracked(fd));
    assert_int_equal(closed(), before);
    close(fd);
}

// UNSHARE closes in a new table, of this thread alone; the process's others keep their sockets.
static void close_range_unshare_keeps_the_other_threads_sockets(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "unshare", PRELOADED, NULL);
    assert_string_equal(result.out, "tracked 1\n");
    assert_int_equal(result.status, 0);
}

static int unshared_fd;

static int unshare_in_clone(void *unused) {
    (void)unused;
    return close_range((unsigned)unshared_fd, UINT_MAX, CLOSE_RANGE_UNSHARE) == 0 &&
                   fcntl(unshared_fd, F_GETFD) < 0
               ? 0
               : 1;
}

static int unshare_scenario(void) {
    static char stack[64 << 10] __attribute__((aligned(16)));
    unshared_fd = socket(AF_INET, SOCK_STREAM, 0);
    pid_t pid =
        clone(unshare_in_clone, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
    int status = 1;
    waitpid(pid, &status, 0);
    printf("tracked %d\n", view_is_tracked(unshared_fd));
    return status;
}

static void close_range_closes_what_lies_in_it_only(void **state) {
    (void)state;
    int fds[5];
    for (int i = 0; i < 5; i++) {
        int fd = a_socket();
        fds[i] = dup2(fd, 200 + i);
        close(fd);
    }
    uint64_t before = closed();
    assert_int_equal(close_range(201, 203, 0), 0);
    assert_int_equal(closed(), before + 3);
    assert_true(view_is_tracked(200) && view_is_tracked(204));
    assert_int_equal(view_number(201) | view_number(202) | view_number(203), 0);
    close(fds[0]);
    close(fds[4]);
}

static void fcloseall_closes_no_socket(void **state) {
    (void)state;
    int fd = a_socket();
    FILE *stream = fdopen(fd, "r+");
    assert_int_equal(fcloseall(), 0);
    assert_true(view_is_tracked(fd));
    assert_int_not_equal(view_inode(fd), 0);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(view_number(fd), 0);
}

static void freopen_closes_the_socket_behind_the_stream(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        int fd = a_socket();
        uint64_t before = closed();
        FILE *stream = fdopen(fd, "r+");
        const char *path = i == 2 ? "/nonexistent/file" : "/dev/null";
        stream = (i ? freopen64 : freopen)(path, "r", stream);
        assert_true(i == 2 ? stream == NULL : stream != NULL);
        assert_int_equal(closed(), before + 1);
        assert_int_equal(view_number(fd), 0);
        if (stream)
            fclose(stream);
    }
}

// --- duplicates ---------------------------------------------------------------------------------

static int duplicate(int way, int fd) {
    switch (way) {
    case 0:
        return dup(fd);
    case 1:
        return dup2(fd, 300);
    case 2:
        return __dup2(fd, 300);
    case 3:
        return dup3(fd, 300, O_CLOEXEC);
    case 4:
        return fcntl(fd, F_DUPFD, 300);
    case 5:
        return fcntl(fd, F_DUPFD_CLOEXEC, 300);
    case 6:
        return fcntl64(fd, F_DUPFD, 300);
    case 7:
        return fcntl64(fd, F_DUPFD_CLOEXEC, 300);
    case 8:
        return __fcntl(fd, F_DUPFD, 300);
    case 9:
        return (int)syscall(SYS_dup, fd);
#ifdef SYS_dup2
    case 10:
        return (int)syscall(SYS_dup2, fd, 300);
#endif
    case 11:
        return (int)syscall(SYS_dup3, fd, 300, 0L);
    case 12:
        return (int)syscall(SYS_fcntl, fd, (long)F_DUPFD, 300L);
    default:
        return dup(fd);
    }
}

static void a_duplicate_is_the_same_socket_until_its_last_fd(void **state) {
    (void)state;
    for (int way = 0; way <= 12; way++) {
        int fd = a_socket();
        uint64_t before = closed(), born = view_ledger()->counters.born;
        int copy = duplicate(way, fd);
        assert_true(copy >= 0);
        assert_int_equal(view_inode(copy), view_inode(fd));
        assert_int_equal(view_number(copy), view_number(fd));
        assert_int_equal(view_ledger()->counters.born, born);
        close(fd);
        assert_int_equal(view_number(fd), 0);
        assert_true(view_is_tracked(copy));
        assert_int_equal(closed(), before);
        close(copy);
        assert_gone(copy, before);
    }
}

static void dup2_over_a_socket_closes_it(void **state) {
    (void)state;
    for (int way = 0; way < 4; way++) {
        int fd = a_socket(), over = a_socket();
        uint64_t before = closed();
        int result = way == 0   ? dup2(fd, over)
                     : way == 1 ? dup3(fd, over, 0)
                     : way == 2 ? __dup2(fd, over)
                                : (int)syscall(SYS_dup3, fd, over, 0L);
        assert_int_equal(result, over);
        assert_int_equal(view_number(over), view_number(fd));
        assert_true(view_is_tracked(over));
        assert_int_equal(closed(), before + 1);
        close(fd);
        close(over);
        assert_int_equal(closed(), before + 2);
    }
}

// As the JDK closes a socket that another thread uses.
static void dup2_of_a_file_over_a_socket_closes_it(void **state) {
    (void)state;
    int marker = open("/dev/null", O_RDONLY | O_CLOEXEC), fd = a_socket();
    uint64_t before = closed();
    assert_int_equal(dup2(marker, fd), fd);
    assert_int_equal(view_number(fd), 0);
    assert_int_equal(closed(), before + 1);
    close(fd);
    close(marker);
    assert_int_equal(closed(), before + 1);
}

static void dup2_onto_itself_changes_nothing(void **state) {
    (void)state;
    int fd = a_socket();
    uint32_t number = view_number(fd);
    uint64_t before = closed();
    assert_int_equal(dup2(fd, fd), fd);
    assert_int_equal(__dup2(fd, fd), fd);
    assert_int_equal(dup3(fd, fd, 0), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(syscall(SYS_dup3, fd, fd, 0L), -1);
    assert_int_equal(view_number(fd), number);
    assert_true(view_is_tracked(fd));
    assert_int_equal(closed(), before);
    close(fd);
    assert_gone(fd, before);
}

static void a_failing_dup2_keeps_both_records(void **state) {
    (void)state;
    int fd = a_socket(), over = a_socket();
    uint32_t numbers[] = {view_number(fd), view_number(over)};
    uint64_t before = closed();
    assert_int_equal(dup2(-1, over), -1);
    assert_int_equal(dup2(998, over), -1);
    assert_int_equal(dup3(fd, over, 1 << 30), -1);
    assert_int_equal(dup3(998, over, 0), -1);
    assert_int_equal(dup2(fd, -1), -1);
    assert_int_equal(dup2(fd, INT_MAX), -1);
    assert_int_equal(syscall(SYS_dup3, 998L, (long)over, 0L), -1);
    assert_int_equal(fcntl(fd, F_DUPFD, -1), -1);
    assert_int_equal(view_number(fd), numbers[0]);
    assert_int_equal(view_number(over), numbers[1]);
    assert_true(view_is_tracked(fd) && view_is_tracked(over));
    assert_int_equal(closed(), before);
    close(fd);
    close(over);
    assert_int_equal(closed(), before + 2);
}

static void dup_without_a_number_left_keeps_the_record(void **state) {
    (void)state;
    struct rlimit limit, low = {.rlim_cur = 3, .rlim_max = 4096};
    int fd = a_socket();
    uint64_t before = closed();
    getrlimit(RLIMIT_NOFILE, &limit);
    low.rlim_max = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &low);
    int copy = dup(fd), error = errno;
    setrlimit(RLIMIT_NOFILE, &limit);
    assert_int_equal(copy, -1);
    assert_int_equal(error, EMFILE);
    assert_true(view_is_tracked(fd));
    close(fd);
    assert_gone(fd, before);
}

// --- daemon -------------------------------------------------------------------------------------

static int daemon_scenario(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), ends[2];
    char line[64] = "";
    dup2(fd, 0); // a socket for stdin, as inetd gives it
    // daemon leaves this process; so a child becomes the daemon, and this one waits for its words.
    if (pipe(ends) != 0)
        return 1;
    if (fork() == 0) {
        if (daemon(1, 0) != 0)
            return 1;
        dprintf(ends[1], "tracked %d, stdin %u, ledger %d\n", view_is_tracked(fd), view_number(0),
                view_ledger()->pid == (uint32_t)getpid());
        close(fd);
        return 0;
    }
    close(ends[1]);
    while (read(ends[0], line + strlen(line), 1) == 1)
        ;
    printf("%sparent %d %d\n", line, view_is_tracked(fd), view_is_tracked(0));
    return 0;
}

static void daemon_puts_null_over_stdin_and_the_child_goes_on(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "daemon", PRELOADED, NULL);
    assert_string_equal(result.out, "tracked 1, stdin 0, ledger 1\nparent 1 1\n");
    assert_string_equal(result.err, "");
    assert_int_equal(result.status, 0);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {{"daemon", daemon_scenario},
                                                    {"unshare", unshare_scenario}};
    rig_start(argc, argv, scenarios, 2);
    enum {
        CLOSERS = sizeof closers / sizeof *closers
    };
    close(socket(AF_INET, SOCK_STREAM, 0));
    const struct CMUnitTest others[] = {
        cmocka_unit_test(a_failed_close_counts_nothing),
        cmocka_unit_test(the_flags_of_close_range_are_honoured),
        cmocka_unit_test(close_range_unshare_keeps_the_other_threads_sockets),
        cmocka_unit_test(close_range_closes_what_lies_in_it_only),
        cmocka_unit_test(fcloseall_closes_no_socket),
        cmocka_unit_test(freopen_closes_the_socket_behind_the_stream),
        cmocka_unit_test(a_duplicate_is_the_same_socket_until_its_last_fd),
        cmocka_unit_test(dup2_over_a_socket_closes_it),
        cmocka_unit_test(dup2_of_a_file_over_a_socket_closes_it),
        cmocka_unit_test(dup2_onto_itself_changes_nothing),
        cmocka_unit_test(a_failing_dup2_keeps_both_records),
        cmocka_unit_test(dup_without_a_number_left_keeps_the_record),
        cmocka_unit_test(daemon_puts_null_over_stdin_and_the_child_goes_on),
    };
    struct CMUnitTest tests[CLOSERS + sizeof others / sizeof *others];
    for (int i = 0; i < CLOSERS; i++)
        tests[i] = (struct CMUnitTest){closers[i].name, a_close_ends_the_record, NULL, NULL,
                                       (void *)(uintptr_t)&closers[i].close};
    memcpy(tests + CLOSERS, others, sizeof others);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
