// The signals that make a report. The program must not notice: a signal that ends it ends it as
// before, an own handler runs after ours, and what is ignored or blocked stays so.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int leak(void) {
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    return recv(pair.server, &byte, 1, 0) == 0 ? pair.server : -1;
}

// A leak past every grace of an end (exit_grace_ms).
static void old_leak(void) {
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    recv(pair.server, &byte, 1, 0);
    rig_wait_state(pair.server, 8 /* CLOSE_WAIT */, 150);
}

// --- death by signal ----------------------------------------------------------------------------

static int by_sigterm(void) {
    old_leak();
    raise(SIGTERM);
    return 1;
}

static int by_sigint(void) {
    old_leak();
    kill(getpid(), SIGINT);
    return 1;
}

static int by_sighup(void) {
    old_leak();
    raise(SIGHUP);
    return 1;
}

static void *wait_for_ever(void *unused) {
    for (;;)
        pause();
    return unused;
}

static int by_sigterm_with_threads(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, wait_for_ever, NULL);
    old_leak();
    pthread_kill(threads[2], SIGTERM);
    pthread_join(threads[0], NULL);
    return 1;
}

static int by_sigterm_while_blocked_in_accept(void) {
    old_leak();
    int listener = rig_listen();
    pid_t parent = getpid();
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); // Yama would not let a child look at its parent
    pid_t pid = fork();
    if (pid == 0) {
        rig_wait_asleep(parent);
        kill(parent, SIGTERM);
        sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
    accept(listener, NULL, NULL);
    return 1;
}

static int by_sigkill(void) {
    leak();
    raise(SIGKILL);
    return 1;
}

static int by_sigsegv(void) {
    leak();
    raise(SIGSEGV);
    return 1;
}

// --- no death -----------------------------------------------------------------------------------

static int ignored(void) {
    signal(SIGTERM, SIG_IGN);
    leak();
    signal(SIGHUP, SIG_IGN);
    raise(SIGTERM);
    raise(SIGHUP);
    puts("still here");
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static int blocked(void) {
    sigset_t set;
    leak();
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGTERM);
    kill(getpid(), SIGUSR1);
    for (int i = 0; i < 2; i++) {
        int number = 0;
        printf("sigwait %d", sigwait(&set, &number));
        printf(" %d\n", number);
    }
    raise(SIGTERM);
    struct signalfd_siginfo info;
    int fd = signalfd(-1, &set, 0);
    long length = read(fd, &info, sizeof info);
    printf("signalfd %ld %u\n", length, info.ssi_signo);
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static volatile sig_atomic_t calls, last_value;
static siginfo_t seen_info;

static void count_call(int number) {
    (void)number;
    calls++;
}

static void keep_info(int number, siginfo_t *info, void *context) {
    (void)number;
    seen_info = *info;
    last_value = context != NULL;
    calls++;
}

// The handler that a program installs after its first socket, for a signal that we hold.
static int own_handlers(void) {
    leak();
    int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction action = {.sa_sigaction = keep_info, .sa_flags = SA_SIGINFO};
        sigaction(signals[i], &action, NULL);
        calls = 0;
        union sigval value = {.sival_int = 1234 + (int)i};
        sigqueue(getpid(), signals[i], value);
        printf("%d: calls %d signo %d code %d value %d pid %d context %d\n", signals[i], calls,
               seen_info.si_signo, seen_info.si_code, seen_info.si_value.sival_int,
               seen_info.si_pid == getpid(), last_value);
    }
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static int handlers_from_before(void) {
    int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
    for (int i = 0; i < 4; i++)
        signal(signals[i], count_call);
    leak();
    for (int i = 0; i < 4; i++) {
        raise(signals[i]);
        printf("%d: calls %d\n", signals[i], calls);
    }
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static int reset_hand(void) {
    leak();
    struct sigaction action = {.sa_handler = count_call, .sa_flags = (int)SA_RESETHAND}, now;
    sigaction(SIGTERM, &action, NULL);
    raise(SIGTERM);
    sigaction(SIGTERM, NULL, &now);
    printf("calls %d, default again %d\n", calls, now.sa_handler == SIG_DFL);
    fflush(stdout);
    raise(SIGTERM); // and now it ends us
    return 1;
}

static int reset_hand_of_the_report_signal(void) {
    leak();
    struct sigaction action = {.sa_handler = count_call, .sa_flags = (int)SA_RESETHAND}, now;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    sigaction(SIGUSR1, NULL, &now);
    printf("calls %d, default again %d\n", calls, now.sa_handler == SIG_DFL);
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static sigset_t mask_in_handler;

static void keep_mask(int number) {
    sigprocmask(SIG_BLOCK, NULL, &mask_in_handler);
    if (calls++ == 0)
        raise(number); // blocked, or nested under SA_NODEFER
}

static int masks(void) {
    leak();
    for (int round = 0; round < 2; round++) {
        struct sigaction action = {.sa_handler = keep_mask, .sa_flags = round ? SA_NODEFER : 0};
        sigaddset(&action.sa_mask, SIGALRM);
        sigaction(SIGUSR1, &action, NULL);
        calls = 0;
        raise(SIGUSR1);
        printf("calls %d, USR1 blocked %d, ALRM blocked %d, TERM blocked %d\n", calls,
               sigismember(&mask_in_handler, SIGUSR1), sigismember(&mask_in_handler, SIGALRM),
               sigismember(&mask_in_handler, SIGTERM));
    }
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static void *interrupt(void *target) {
    pid_t tid = *(pid_t *)target;
    rig_wait_asleep(tid);
    sys_call(SYS_tgkill, getpid(), tid, SIGUSR1, 0, 0, 0);
    rig_wait_asleep(tid);
    sys_call(SYS_tgkill, getpid(), tid, SIGUSR2, 0, 0, 0);
    return NULL;
}

// SA_RESTART is the program's choice: without it a read is interrupted, with it it goes on.
static int restarting(void) {
    leak();
    for (int round = 0; round < 2; round++) {
        struct sigaction action = {.sa_handler = count_call, .sa_flags = round ? SA_RESTART : 0};
        sigaction(SIGUSR1, &action, NULL);
        action.sa_flags = 0;
        sigaction(SIGUSR2, &action, NULL);
        pid_t tid = sys_gettid();
        pthread_t thread;
        char byte;
        int pair[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        calls = 0;
        pthread_create(&thread, NULL, interrupt, &tid);
        long n = read(pair[0], &byte, 1);
        int error = errno;
        printf("read %ld errno %d after %d signals\n", n, error, calls);
        if (calls < 2)
            read(pair[0], &byte, 1);
        pthread_join(thread, NULL);
    }
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

// A handler on an alternate stack of the customary size has room for our report below it.
static int on_a_small_stack(void) {
    char *memory = mmap(NULL, 3 * 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + 8192, 8192, PROT_READ | PROT_WRITE);
    stack_t stack = {.ss_sp = memory + 8192, .ss_size = 8192};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_handler = count_call, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    leak();
    raise(SIGUSR1);
    printf("calls %d\n", calls);
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

// What CPython's subprocess, and every careful program, does before its exec: the child's actions
// are its own, though its memory is the parent's.
static int reset_in_a_vfork_child(void) {
    leak();
    struct sigaction once = {.sa_handler = count_call, .sa_flags = (int)SA_RESETHAND}, now;
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    signal(SIGUSR1, count_call);
    signal(SIGHUP, count_call);
    sigaction(SIGTERM, &once, NULL);
    sigaction(SIGINT, &once, NULL);
    pid_t pid = vfork();
    if (pid == 0) {
        int same = signal(SIGUSR1, SIG_DFL) == count_call;
        same += sigaction(SIGTERM, &fallback, &now) == 0 && now.sa_handler == count_call;
        same += sigaction(SIGTERM, NULL, &now) == 0 && now.sa_handler == SIG_DFL;
        same += signal(SIGHUP, SIG_IGN) == count_call;
        same += signal(SIGUSR1, SIG_IGN) == SIG_DFL;
        kill(getpid(), SIGINT); // taken, and reset, in the child
        same += sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler == SIG_DFL;
        _exit(same);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("child %d, calls %d\n", WEXITSTATUS(status), calls);
    int numbers[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < 4; i++) {
        sigaction(numbers[i], NULL, &now);
        raise(numbers[i]);
        printf("%d: %d, calls %d\n", numbers[i], now.sa_handler == count_call, calls);
    }
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

// A process that was forked into a new PID namespace is its init, and does not die of these
// signals; nor is it interrupted.
static int init_of_a_namespace(void) {
    leak();
    if (unshare(CLONE_NEWPID) != 0)
        return RIG_SKIPPED;
    pid_t pid = fork();
    if (pid == 0) {
        struct timespec time = {.tv_nsec = 200000000};
        int result = nanosleep(&time, NULL);
        struct sigaction now, fallback = {.sa_handler = SIG_DFL};
        sigaction(SIGTERM, NULL, &now);
        printf("pid %d, nanosleep %d, default %d", getpid(), result, now.sa_handler == SIG_DFL);
        sigaction(SIGTERM, &fallback, NULL);
        raise(SIGTERM);
        printf(", still here\n");
        fflush(stdout);
        sys_call(SYS_exit_group, 5, 0, 0, 0, 0, 0);
    }
    rig_wait_asleep(pid);
    kill(pid, SIGTERM);
    int status = 0;
    waitpid(pid, &status, 0);
    printf("init ended %#x\n", (unsigned)status);
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

// --- live reports -------------------------------------------------------------------------------

static int report_and_go_on(void) {
    old_leak();
    raise(SIGUSR1);
    raise(SIGUSR1);
    sys_call(SYS_exit_group, 4, 0, 0, 0, 0, 0);
    return 1;
}

// The program's once-only handler is gone after the first signal; ours is not.
static int report_after_a_once_only_handler(void) {
    old_leak();
    struct sigaction action = {.sa_handler = count_call, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    raise(SIGUSR1);
    sys_call(SYS_exit_group, calls, 0, 0, 0, 0, 0);
    return 1;
}

enum {
    MANY = 15000
};

static bool is_pending(pid_t pid) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    int fd = sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    long n = sys_read(fd, text, sizeof text - 1);
    sys_close(fd);
    text[n > 0 ? n : 0] = '\0';
    return !strstr(text, "ShdPnd:\t0000000000000000");
}

// A live report that takes a while is struck by the signal that ends the process.
static int end_in_a_report(void) {
    struct rlimit limit = {MANY + 100, MANY + 100};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return RIG_SKIPPED;
    for (int i = 0; i < MANY; i++)
        socket(AF_INET, SOCK_STREAM, 0);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        sys_call(SYS_kill, parent, SIGUSR1, 0, 0, 0, 0);
        do
            sys_sleep_ms(5);
        while (is_pending(parent));
        sys_call(SYS_kill, parent, SIGTERM, 0, 0, 0, 0);
        sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
    for (;;)
        pause();
}

static int report_by_usr2(void) {
    old_leak();
    raise(SIGUSR2);
    sys_call(SYS_exit_group, 4, 0, 0, 0, 0, 0);
    return 1;
}

static const struct rig_scenario scenarios[] = {
    {"SIGTERM", by_sigterm},
    {"SIGINT", by_sigint},
    {"SIGHUP", by_sighup},
    {"threads", by_sigterm_with_threads},
    {"in accept", by_sigterm_while_blocked_in_accept},
    {"SIGKILL", by_sigkill},
    {"SIGSEGV", by_sigsegv},
    {"ignored", ignored},
    {"blocked", blocked},
    {"own_handlers", own_handlers},
    {"handlers_from_before", handlers_from_before},
    {"reset_hand", reset_hand},
    {"reset_hand_usr1", reset_hand_of_the_report_signal},
    {"masks", masks},
    {"restarting", restarting},
    {"small_stack", on_a_small_stack},
    {"reset_in_vfork", reset_in_a_vfork_child},
    {"init", init_of_a_namespace},
    {"report_and_go_on", report_and_go_on},
    {"report_by_usr2", report_by_usr2},
    {"end_in_a_report", end_in_a_report},
    {"report_after_once", report_after_a_once_only_handler},
};

static struct rig_result result;

static void a_signal_that_ends_the_process_ends_it_so_and_a_report_was_made(void **state) {
    (void)state;
    const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGTERM, SIGTERM};
    for (int i = 0; i < 5; i++) {
        rig_assert_same_as_bare(scenarios[i].name, "exitcode=9", &result);
        assert_true(WIFSIGNALED(result.status));
        assert_int_equal(WTERMSIG(result.status), numbers[i]);
        assert_int_equal(rig_reports(result.err), 1);
        assert_non_null(strstr(result.err, "1 socket left in CLOSE_WAIT"));
    }
}

static void a_crash_or_a_kill_is_as_bare(void **state) {
    (void)state;
    rig_assert_same_as_bare("SIGKILL", NULL, &result);
    assert_string_equal(result.err, "");
    rig_assert_same_as_bare("SIGSEGV", NULL, &result);
    assert_string_equal(result.err, "");
}

static void what_the_program_does_with_signals_goes_on_as_bare(void **state) {
    rig_assert_same_as_bare(*state, NULL, NULL);
    rig_assert_same_as_bare(*state, "signal=none", NULL);
    rig_assert_same_as_bare(*state, "signal=USR2", NULL);
}

static void the_report_signal_reports_each_time_and_the_process_goes_on(void **state) {
    (void)state;
    rig_run(&result, "report_and_go_on", PRELOADED, "grace_ms=100");
    assert_int_equal(result.status, 4 << 8);
    assert_int_equal(rig_reports(result.err), 2);
    assert_int_equal(rig_count(result.err, "at SIGUSR1 in"), 2);
    assert_int_equal(rig_count(result.err, "eof-ignored"), 2);
}

static void a_report_that_was_asked_for_is_printed_beside_a_ledger_file_too(void **state) {
    (void)state;
    rig_run(&result, "report_and_go_on", PRELOADED, rig_ledger_options("grace_ms=100"));
    assert_int_equal(rig_count(result.err, "at SIGUSR1 in"), 2);
}

static void an_end_in_the_middle_of_a_report_lets_it_be_written(void **state) {
    (void)state;
    rig_run(&result, "end_in_a_report", PRELOADED, NULL);
    if (result.status == RIG_SKIPPED << 8)
        skip();
    assert_int_equal(WTERMSIG(result.status), SIGTERM);
    assert_int_equal(rig_reports(result.err), 1);
    assert_int_equal(rig_count(result.err, "at SIGUSR1 in"), 1);
}

static void a_once_only_handler_leaves_ours_in_force(void **state) {
    (void)state;
    rig_run(&result, "report_after_once", PRELOADED, "grace_ms=100");
    assert_int_equal(result.status, 1 << 8); // called once, and still there to say so
    assert_int_equal(rig_reports(result.err), 2);
}

static void signal_none_leaves_the_default_action(void **state) {
    (void)state;
    rig_assert_same_as_bare("report_and_go_on", "signal=none", &result);
    assert_int_equal(WTERMSIG(result.status), SIGUSR1);
    assert_string_equal(result.err, "");
}

static void another_report_signal_can_be_chosen(void **state) {
    (void)state;
    rig_run(&result, "report_by_usr2", PRELOADED, "signal=USR2:grace_ms=100");
    assert_int_equal(result.status, 4 << 8);
    assert_int_equal(rig_count(result.err, "at SIGUSR2 in"), 1);
    rig_assert_same_as_bare("report_and_go_on", "signal=USR2", &result); // dies of SIGUSR1
    rig_assert_same_as_bare("report_by_usr2", "signal=USR1", &result);   // and of SIGUSR2
}

int main(int argc, char **argv) {
    enum {
        FIRST_LIVE = 7,
        LIVE = 11,
        OTHERS = 8
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    struct CMUnitTest tests[OTHERS + LIVE] = {
        cmocka_unit_test(a_signal_that_ends_the_process_ends_it_so_and_a_report_was_made),
        cmocka_unit_test(a_crash_or_a_kill_is_as_bare),
        cmocka_unit_test(the_report_signal_reports_each_time_and_the_process_goes_on),
        cmocka_unit_test(a_once_only_handler_leaves_ours_in_force),
        cmocka_unit_test(a_report_that_was_asked_for_is_printed_beside_a_ledger_file_too),
        cmocka_unit_test(an_end_in_the_middle_of_a_report_lets_it_be_written),
        cmocka_unit_test(signal_none_leaves_the_default_action),
        cmocka_unit_test(another_report_signal_can_be_chosen),
    };
    for (int i = 0; i < LIVE; i++)
        tests[OTHERS + i] = (struct CMUnitTest){
            scenarios[FIRST_LIVE + i].name, what_the_program_does_with_signals_goes_on_as_bare,
            NULL, NULL, (void *)(uintptr_t)scenarios[FIRST_LIVE + i].name};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
