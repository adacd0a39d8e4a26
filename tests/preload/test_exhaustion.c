// The moment at which something runs out: one report a kind, complete, and the call as it would
// have been; and the thresholds max_open, max_close_wait and leak_after.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    FD_LIMIT = 40,
    LEAKS = 6,
    FIRST_PORT = 50000,
    PORTS = 16
};

static char byte;

static uint64_t exhausted(enum ledger_exhaustion kind) {
    return view_ledger() ? view_ledger()->counters.exhausted[kind] : 0;
}

// Connections in CLOSE_WAIT, their ends of stream read; the peers' fds closed.
static void leak(int count) {
    for (int i = 0; i < count; i++) {
        struct rig_tcp pair = rig_tcp_pair();
        rig_peer_closes(pair);
        recv(pair.server, &byte, 1, 0);
    }
}

// --- descriptors --------------------------------------------------------------------------------

static void take_all_that_are_left(void) {
    while (sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0) >= 0)
        ;
}

// Takes all descriptors that are left, and returns the listener.
static int use_up(void) {
    struct rlimit limit = {FD_LIMIT, FD_LIMIT};
    setrlimit(RLIMIT_NOFILE, &limit);
    int listener = rig_listen();
    rig_quiet_connect(listener);
    leak(LEAKS);
    take_all_that_are_left();
    return listener;
}

static int tell(const char *call, long result) {
    printf("%s %ld %d\n", call, result, errno);
    return result == -1 && errno == EMFILE ? 0 : 1;
}

static int full_accept(void) {
    int listener = use_up();
    return tell("accept", accept(listener, NULL, NULL)) ||
           tell("accept4", accept4(listener, NULL, NULL, SOCK_CLOEXEC));
}

static int full_socket(void) {
    use_up();
    return tell("socket", socket(AF_INET, SOCK_STREAM, 0));
}

static int full_socketpair(void) {
    int fds[2];
    use_up();
    return tell("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static int full_dup(void) {
    return tell("dup", dup(use_up()));
}

static int full_fcntl(void) {
    return tell("fcntl", fcntl(use_up(), F_DUPFD_CLOEXEC, 0));
}

static int full_syscall(void) {
    int listener = use_up();
    return tell("syscall", syscall(SYS_accept4, listener, 0L, 0L, 0L));
}

static int full_syscall_socket(void) {
    use_up();
    return tell("syscall", syscall(SYS_socket, AF_INET, SOCK_STREAM, 0));
}

static int pidfd_of_full(void) {
    int pidfd = (int)sys_call(SYS_pidfd_open, sys_getpid(), 0, 0, 0, 0, 0);
    use_up();
    return pidfd;
}

static int full_pidfd_getfd(void) {
    int pidfd = pidfd_of_full();
    return tell("pidfd_getfd", pidfd_getfd(pidfd, 1, 0));
}

static int full_syscall_pidfd_getfd(void) {
    int pidfd = pidfd_of_full();
    return tell("syscall", syscall(SYS_pidfd_getfd, pidfd, 1, 0));
}

static int full_without_sockets(void) {
    struct rlimit limit = {3, FD_LIMIT};
    setrlimit(RLIMIT_NOFILE, &limit);
    return tell("socket", socket(AF_INET, SOCK_STREAM, 0));
}

static void assert_full(const char *scenario) {
    struct rig_result result;
    rig_assert_same_as_bare(scenario, NULL, &result);
    assert_int_equal(result.status, 0);
    char line[128];
    snprintf(line, sizeof line,
             "sockleak: too many open files (EMFILE): %d of %d descriptors are sockets in "
             "CLOSE_WAIT, %d of them from this stack",
             LEAKS, FD_LIMIT, LEAKS);
    assert_int_equal(rig_count(result.err, line), 1);
    assert_int_equal(rig_count(result.err, "summary: "), 2);
    // Names are read from files: at that moment, and at the end, when no descriptor is free either.
    assert_int_equal(rig_count(result.err, " leak+0x"), 3);
    assert_null(strstr(result.err, "names are missing"));
    assert_null(strstr(result.err, "not known"));
}

static void every_call_that_makes_a_descriptor_reports_when_there_is_none(void **state) {
    (void)state;
    static const char *const scenarios[] = {"full_accept",
                                            "full_socket",
                                            "full_socketpair",
                                            "full_dup",
                                            "full_fcntl",
                                            "full_syscall",
                                            "full_syscall_socket",
                                            "full_pidfd_getfd",
                                            "full_syscall_pidfd_getfd"};
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        assert_full(scenarios[i]);
}

// --- what else a report must open files for ------------------------------------------------------

static struct {
    int listener;
    _Atomic pid_t thread;
    int accepted[2];
} stuck;

// Accepts two connections, and is stuck in the first.
static void *accepts_two(void *unused) {
    (void)unused;
    for (int i = 0; i < 2; i++)
        stuck.accepted[i] = accept4(stuck.listener, NULL, NULL, SOCK_CLOEXEC);
    stuck.thread = sys_gettid();
    recv(stuck.accepted[0], &byte, 1, 0);
    return NULL;
}

static int full_with_a_thread_that_is_stuck(void) {
    struct rlimit limit = {FD_LIMIT, FD_LIMIT};
    setrlimit(RLIMIT_NOFILE, &limit);
    stuck.listener = rig_listen();
    int silent = rig_quiet_connect(stuck.listener);
    int gone = rig_quiet_connect(stuck.listener); // what the thread does not come to
    pthread_t thread;
    pthread_create(&thread, NULL, accepts_two, NULL);
    while (stuck.thread == 0)
        sys_sleep_ms(1);
    rig_wait_asleep(stuck.thread);
    sys_close(gone);
    take_all_that_are_left();
    rig_wait_state(stuck.accepted[1], TCP_CLOSE_WAIT, 400);
    int result = tell("socket", socket(AF_INET, SOCK_STREAM, 0));
    sys_close(silent);
    pthread_join(thread, NULL);
    return result;
}

static void what_another_thread_waits_for_is_known_without_a_descriptor(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "full_with_a_thread_that_is_stuck", PRELOADED, "grace_ms=200");
    assert_int_equal(result.status, 0);
    rig_assert_said(&result, ", which opened it, is stuck in recvfrom on fd ");
}

// The child has what its parent has, and no room for more.
static int full_child(void) {
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    rig_wait_state(pair.server, TCP_CLOSE_WAIT, 100);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {FD_LIMIT, FD_LIMIT};
        setrlimit(RLIMIT_NOFILE, &limit);
        take_all_that_are_left();
        _exit(tell("socket", socket(AF_INET, SOCK_STREAM, 0)));
    }
    int status;
    waitpid(child, &status, 0);
    close(pair.server);
    return status;
}

static void what_the_parent_has_is_known_without_a_descriptor(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "full_child", PRELOADED, "grace_ms=50");
    assert_int_equal(result.status, 0);
    rig_assert_said(&result, "summary: 0 leaked (0 close-wait, 0 dead), 0 open, 1 inherited, ");
    assert_null(strstr(result.err, "left in CLOSE_WAIT"));
}

static void the_log_is_written_without_a_descriptor(void **state) {
    (void)state;
    char dir[] = "/tmp/sockleak-exhaustion-XXXXXX", options[128], command[96];
    static char log[RIG_CAPTURE_BYTES];
    assert_non_null(mkdtemp(dir));
    struct rig_result result;
    snprintf(options, sizeof options, "log_path=%s/log", dir);
    rig_run(&result, "full_accept", PRELOADED, options);
    assert_string_equal(result.err, "");
    snprintf(command, sizeof command, "%s/log", dir);
    int fd = open(command, O_RDONLY | O_CLOEXEC);
    ssize_t len = read(fd, log, sizeof log - 1);
    close(fd);
    log[len > 0 ? len : 0] = '\0';
    assert_int_equal(rig_count(log, "too many open files (EMFILE)"), 1);
    assert_int_equal(rig_reports(log), 2);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

// A filter that the library did not see, as one from before its exec.
static int full_where_no_thread_can_be_made(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), // seccomp_data.nr
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    sys_call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
    if (sys_call(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter, 0, 0, 0) < 0)
        return RIG_SKIPPED;
    return full_accept();
}

static void without_a_thread_the_report_is_made_and_says_what_is_missing(void **state) {
    (void)state;
    struct rig_result result;
    rig_assert_same_as_bare_or_skip("full_where_no_thread_can_be_made", NULL, &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(rig_count(result.err, "6 of 40 descriptors are sockets in CLOSE_WAIT"), 1);
    assert_int_equal(rig_count(result.err, "test_exhaustion (+0x"), rig_count(result.err, "    #"));
    rig_assert_said(&result,
                    "no file descriptor was free, and no thread could be made that has its "
                    "own: ");
    rig_assert_said(&result, "names are missing: a file that has them could not be read");
}

static void a_process_without_sockets_has_nothing_to_say(void **state) {
    (void)state;
    struct rig_result result;
    rig_assert_same_as_bare("full_without_sockets", NULL, &result);
    assert_string_equal(result.err, "");
}

static int full_again_and_again(void) {
    int listener = use_up();
    for (int i = 0; i < 50; i++)
        if (accept(listener, NULL, NULL) != -1 || errno != EMFILE)
            return 1;
    printf("%d\n", (int)exhausted(EXHAUSTED_PROCESS_FDS));
    return 0;
}

static void each_failure_is_counted_and_one_is_reported(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "full_again_and_again", PRELOADED, NULL);
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "50\n");
    assert_int_equal(rig_count(result.err, "too many open files"), 1);
    rig_run(&result, "full_again_and_again", PRELOADED, "exhaustion_interval=0:max_sockets=0");
    assert_int_equal(rig_count(result.err, "too many open files"), 50);
}

static void beside_a_ledger_file_nothing_is_printed_unless_asked(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "full_again_and_again", PRELOADED, rig_ledger_options(NULL));
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "50\n");
    assert_string_equal(result.err, "");
    rig_run(&result, "full_again_and_again", PRELOADED, rig_ledger_options("verbosity=1"));
    assert_int_equal(rig_count(result.err, "too many open files"), 1);
}

// --- ports --------------------------------------------------------------------------------------

static bool write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return written;
}

static bool enter_small_network(void) {
    char range[32];
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        return false;
    snprintf(range, sizeof range, "%d %d", FIRST_PORT, FIRST_PORT + PORTS - 1);
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool up = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &loopback) == 0;
    close(fd);
    return up && write_text("/proc/sys/net/ipv4/ip_local_port_range", range);
}

__attribute__((noinline)) static int ask_server(int listener, const struct sockaddr_in *server) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result = connect(fd, (const struct sockaddr *)server, sizeof *server);
    int error = errno;
    close(fd); // first: TIME_WAIT is on this side
    if (result == 0) {
        long accepted = sys_call(SYS_accept4, listener, 0, 0, 0, 0, 0);
        sys_close((int)accepted);
    }
    errno = error;
    return result;
}

static int uses_up_all_ports(void) {
    if (!enter_small_network())
        return RIG_SKIPPED;
    struct sockaddr_in server = {
        .sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&server, sizeof server) != 0 || listen(listener, 64) != 0)
        return 1;
    int made = 0;
    while (made <= PORTS && ask_server(listener, &server) == 0)
        made++;
    printf("%d %d\n", made, errno);
    return made == PORTS && errno == EADDRNOTAVAIL ? 0 : 1;
}

static void a_connect_without_a_port_names_destination_and_call_site(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "uses_up_all_ports", BARE, NULL);
    if (WIFEXITED(result.status) && WEXITSTATUS(result.status) == RIG_SKIPPED) {
        print_message("no network namespace may be made here\n");
        skip();
    }
    rig_assert_same_as_bare("uses_up_all_ports", NULL, &result);
    assert_int_equal(rig_count(result.err,
                               "sockleak: no free port for 127.0.0.1:8080 (EADDRNOTAVAIL): 16 in "
                               "ip_local_port_range, 16 sockets in TIME_WAIT, "),
                     1);
    assert_int_equal(rig_count(result.err, "closed first in the last minute: 16 from this stack"),
                     1);
    assert_int_equal(rig_count(result.err, "ask_server+0x"), 1);
}

// A network without IPv6 addresses: EADDRNOTAVAIL, and every port is free.
static int has_no_address(void) {
    if (!enter_small_network() || !write_text("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))
        return RIG_SKIPPED;
    struct sockaddr_in6 server = {
        .sin6_family = AF_INET6, .sin6_port = htons(80), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return RIG_SKIPPED;
    int result = connect(fd, (struct sockaddr *)&server, sizeof server);
    printf("%d %d\n", result, errno);
    return result == -1 && errno == EADDRNOTAVAIL ? 0 : RIG_SKIPPED;
}

static void a_peer_that_no_address_reaches_is_no_exhaustion(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "has_no_address", BARE, NULL);
    if (WIFEXITED(result.status) && WEXITSTATUS(result.status) == RIG_SKIPPED) {
        print_message("no network without IPv6 may be made here\n");
        skip();
    }
    rig_assert_same_as_bare("has_no_address", NULL, &result);
    assert_string_equal(result.err, "");
}

// --- thresholds ---------------------------------------------------------------------------------

static int opens_five(void) {
    for (int i = 0; i < 5; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        printf("%d %d\n", fd, (int)exhausted(EXHAUSTED_MAX_OPEN));
    }
    return 0;
}

static void max_open_reports_when_it_is_reached(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "opens_five", PRELOADED, "max_open=4");
    assert_string_equal(result.out, "3 0\n4 0\n5 0\n6 1\n7 2\n");
    assert_int_equal(rig_count(result.err, "max_open=4 is reached: 4 descriptors are sockets, none "
                                           "in CLOSE_WAIT, 4 of them from this stack"),
                     1);
    rig_run(&result, "opens_five", PRELOADED, "max_open=6");
    assert_string_equal(result.err, "");
}

// The look is once a second: so activity for longer than that.
static void be_active_until(enum ledger_exhaustion kind, uint64_t for_ms) {
    uint64_t start = rig_now_ms();
    while (exhausted(kind) == 0 && rig_now_ms() - start < for_ms) {
        close(socket(AF_INET, SOCK_STREAM, 0));
        sys_sleep_ms(5);
    }
    printf("%d\n", (int)exhausted(kind));
}

static int leaks_and_goes_on(void) {
    leak(LEAKS);
    be_active_until(EXHAUSTED_MAX_CLOSE_WAIT, 2500);
    return 0;
}

static void max_close_wait_counts_only_what_is_in_close_wait(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "leaks_and_goes_on", PRELOADED, "max_close_wait=6");
    assert_string_equal(result.out, "1\n");
    assert_int_equal(rig_count(result.err, "max_close_wait=6 is reached: 6 descriptors are sockets "
                                           "in CLOSE_WAIT, 6 of them from this stack"),
                     1);
    rig_run(&result, "leaks_and_goes_on", PRELOADED, "max_close_wait=7");
    assert_string_equal(result.out, "0\n");
}

static int leaks_unread_and_goes_on(void) {
    rig_peer_closes(rig_tcp_pair());
    uint64_t since = rig_now_ms();
    be_active_until(EXHAUSTED_LEAK_AFTER, 6000);
    printf("%d\n", rig_now_ms() - since >= 990);
    return 0;
}

static int leaks_read_and_goes_on(void) {
    leak(1);
    uint64_t since = rig_now_ms();
    be_active_until(EXHAUSTED_LEAK_AFTER, 6000);
    printf("%d\n", rig_now_ms() - since >= 990);
    return 0;
}

static void leak_after_reports_a_socket_as_soon_as_it_has_leaked_for_so_long(void **state) {
    (void)state;
    static const char *const scenarios[] = {"leaks_unread_and_goes_on", "leaks_read_and_goes_on"};
    for (int i = 0; i < 2; i++) {
        struct rig_result result;
        rig_run(&result, scenarios[i], PRELOADED, "leak_after=1:grace_ms=500");
        assert_string_equal(result.out, "1\n1\n");
        assert_int_equal(rig_count(result.err,
                                   "in CLOSE_WAIT for longer than leak_after=1 s; of any age, 1 "
                                   "descriptor is a socket in CLOSE_WAIT, 1 of them from "
                                   "this stack"),
                         1);
        assert_int_equal(rig_count(result.err, "1 socket left in CLOSE_WAIT (1 finding) at "
                                               "leak_after in "),
                         1);
    }
}

static int leaks_once_and_goes_on_for_long(void) {
    leak(1);
    uint64_t start = rig_now_ms();
    while (rig_now_ms() - start < 3500) {
        close(socket(AF_INET, SOCK_STREAM, 0));
        sys_sleep_ms(5);
    }
    return 0;
}

static void a_leak_is_reported_by_leak_after_once(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "leaks_once_and_goes_on_for_long", PRELOADED,
            "leak_after=1:exhaustion_interval=0");
    assert_int_equal(rig_count(result.err, "leak_after=1 s; "), 1);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {
        {"full_accept", full_accept},
        {"full_socket", full_socket},
        {"full_socketpair", full_socketpair},
        {"full_dup", full_dup},
        {"full_fcntl", full_fcntl},
        {"full_syscall", full_syscall},
        {"full_syscall_socket", full_syscall_socket},
        {"full_pidfd_getfd", full_pidfd_getfd},
        {"full_syscall_pidfd_getfd", full_syscall_pidfd_getfd},
        {"full_without_sockets", full_without_sockets},
        {"full_with_a_thread_that_is_stuck", full_with_a_thread_that_is_stuck},
        {"full_child", full_child},
        {"full_where_no_thread_can_be_made", full_where_no_thread_can_be_made},
        {"full_again_and_again", full_again_and_again},
        {"uses_up_all_ports", uses_up_all_ports},
        {"has_no_address", has_no_address},
        {"opens_five", opens_five},
        {"leaks_and_goes_on", leaks_and_goes_on},
        {"leaks_unread_and_goes_on", leaks_unread_and_goes_on},
        {"leaks_read_and_goes_on", leaks_read_and_goes_on},
        {"leaks_once_and_goes_on_for_long", leaks_once_and_goes_on_for_long},
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_that_makes_a_descriptor_reports_when_there_is_none),
        cmocka_unit_test(what_another_thread_waits_for_is_known_without_a_descriptor),
        cmocka_unit_test(what_the_parent_has_is_known_without_a_descriptor),
        cmocka_unit_test(the_log_is_written_without_a_descriptor),
        cmocka_unit_test(without_a_thread_the_report_is_made_and_says_what_is_missing),
        cmocka_unit_test(a_process_without_sockets_has_nothing_to_say),
        cmocka_unit_test(each_failure_is_counted_and_one_is_reported),
        cmocka_unit_test(beside_a_ledger_file_nothing_is_printed_unless_asked),
        cmocka_unit_test(a_connect_without_a_port_names_destination_and_call_site),
        cmocka_unit_test(a_peer_that_no_address_reaches_is_no_exhaustion),
        cmocka_unit_test(max_open_reports_when_it_is_reached),
        cmocka_unit_test(max_close_wait_counts_only_what_is_in_close_wait),
        cmocka_unit_test(leak_after_reports_a_socket_as_soon_as_it_has_leaked_for_so_long),
        cmocka_unit_test(a_leak_is_reported_by_leak_after_once),
    };
    return cmocka_run_group_tests_name("exhaustion", tests, NULL, NULL);
}
