// What the program reads back from sigaction and its kin is what it would read bare, for the
// signals that we hold and for one that we do not. The bare program is the judge.
#include "rig.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const int numbers[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGBUS};

enum {
    NUMBERS = sizeof numbers / sizeof *numbers
};

static void handler(int number) {
    (void)number;
}

static void other(int number) {
    (void)number;
}

static const char *name_of(sighandler_t action) {
    return action == SIG_DFL    ? "SIG_DFL"
           : action == SIG_IGN  ? "SIG_IGN"
           : action == SIG_ERR  ? "SIG_ERR"
           : action == SIG_HOLD ? "SIG_HOLD"
           : action == handler  ? "handler"
           : action == other    ? "other"
                                : "something else";
}

static void say_action(const char *what, int number) {
    struct sigaction now;
    memset(&now, 0xee, sizeof now);
    errno = 4711;
    int result = sigaction(number, NULL, &now);
    printf("%s %d: %d errno %d %s flags %#x mask", what, number, result, errno,
           name_of(now.sa_handler), (unsigned)now.sa_flags);
    for (int s = 1; s < 32; s++)
        if (sigismember(&now.sa_mask, s) == 1)
            printf(" %d", s);
    printf("\n");
}

static void open_a_socket(void) {
    close(socket(AF_INET, SOCK_STREAM, 0));
}

static int done(void) {
    fflush(stdout);
    _exit(0);
}

static int untouched(void) {
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, handler);
    open_a_socket();
    for (int i = 0; i < NUMBERS; i++)
        say_action("untouched", numbers[i]);
    return done();
}

static int by_sigaction(void) {
    open_a_socket();
    const int flags[] = {0, SA_RESTART, SA_SIGINFO | SA_NODEFER, (int)SA_RESETHAND | SA_ONSTACK,
                         SA_NOCLDSTOP | SA_NOCLDWAIT};
    for (int i = 0; i < NUMBERS; i++) {
        for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
            struct sigaction action = {.sa_handler = f % 2 ? other : handler, .sa_flags = flags[f]};
            sigaddset(&action.sa_mask, SIGALRM);
            sigaddset(&action.sa_mask, SIGKILL); // the kernel takes it out
            struct sigaction before;
            printf("set %d: %d", numbers[i], sigaction(numbers[i], &action, &before));
            printf(" before %s flags %#x\n", name_of(before.sa_handler), (unsigned)before.sa_flags);
            say_action("then", numbers[i]);
        }
        struct sigaction action = {.sa_handler = SIG_IGN, .sa_flags = SA_RESTART};
        sigaction(numbers[i], &action, NULL);
        say_action("ignored", numbers[i]);
        action.sa_handler = SIG_DFL;
        action.sa_flags = 0;
        sigaction(numbers[i], &action, NULL);
        say_action("default", numbers[i]);
    }
    return done();
}

static int by_failing_sigaction(void) {
    open_a_socket();
    struct sigaction action = {.sa_handler = handler}, before;
    const int bad[] = {0, -1, 65, 1000, SIGKILL, SIGSTOP, 32, 33};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        errno = 4711;
        int result = sigaction(bad[i], &action, &before);
        printf("sigaction %d: %d errno %d\n", bad[i], result, errno);
        errno = 4711;
        sighandler_t was = signal(bad[i], handler);
        printf("signal %d: %s errno %d\n", bad[i], name_of(was), errno);
    }
    errno = 4711;
    printf("signal SIG_ERR: %s", name_of(signal(SIGTERM, SIG_ERR)));
    printf(" errno %d\n", errno);
    say_action("then", SIGTERM);
    return done();
}

#define SET(function, number, action)                                                              \
    do {                                                                                           \
        errno = 4711;                                                                              \
        const char *was = name_of(function(number, action));                                       \
        printf(#function " %d: was %s errno %d\n", number, was, errno);                            \
        say_action("then", number);                                                                \
    } while (0)

sighandler_t bsd_signal(int number, sighandler_t action);
sighandler_t __sysv_signal(int number, sighandler_t action);

static int by_kin(void) {
    open_a_socket();
    for (int i = 0; i < NUMBERS; i++) {
        int n = numbers[i];
        SET(signal, n, handler);
        SET(signal, n, other);
        SET(signal, n, SIG_DFL);
        SET(ssignal, n, handler);
        SET(sysv_signal, n, other);
        SET(__sysv_signal, n, handler);
        SET(bsd_signal, n, SIG_DFL);
        SET(bsd_signal, n, other);
        SET(signal, n, SIG_IGN);
        SET(signal, n, SIG_DFL);
    }
    return done();
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static void say_blocked(int number) {
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    printf("blocked %d\n", sigismember(&set, number));
}

static int by_system_v(void) {
    open_a_socket();
    for (int i = 0; i < NUMBERS; i++) {
        int n = numbers[i];
        SET(sigset, n, handler);
        say_blocked(n);
        SET(sigset, n, SIG_HOLD);
        say_blocked(n);
        SET(sigset, n, SIG_HOLD);
        SET(sigset, n, other);
        say_blocked(n);
        printf("sighold %d\n", sighold(n));
        say_blocked(n);
        printf("sigrelse %d\n", sigrelse(n));
        say_blocked(n);
        printf("sigignore %d\n", sigignore(n));
        say_action("ignored", n);
        SET(sigset, n, SIG_DFL);
        SET(sigset, n, SIG_IGN);
        SET(sigset, n, SIG_DFL);
    }
    return done();
}

static int by_siginterrupt(void) {
    open_a_socket();
    for (int i = 0; i < NUMBERS; i++) {
        int n = numbers[i];
        SET(signal, n, handler);
        printf("siginterrupt %d\n", siginterrupt(n, 1));
        say_action("interrupts", n);
        printf("siginterrupt %d\n", siginterrupt(n, 0));
        say_action("restarts", n);
        SET(signal, n, other);
    }
    return done();
}

#pragma GCC diagnostic pop

// What an image of exec starts with: ignored stays ignored, all else is the default. (Not so the
// report signal: over an ignored one there is our handler, and exec resets that to the default.)
static int after_exec(void) {
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, handler);
    open_a_socket();
    signal(SIGINT, SIG_IGN);
    fflush(stdout);
    unsetenv("LD_PRELOAD");
    execlp("grep", "grep", "Sig[IC]", "/proc/self/status", (char *)NULL);
    return 1;
}

static int after_fork(void) {
    open_a_socket();
    signal(SIGUSR1, handler);
    signal(SIGTERM, SIG_IGN);
    fflush(stdout);
    if (fork() == 0) {
        open_a_socket();
        for (int i = 0; i < NUMBERS; i++)
            say_action("child", numbers[i]);
        return done();
    }
    wait(NULL);
    return done();
}

static int during_system(void) {
    open_a_socket();
    signal(SIGINT, handler);
    printf("%d\n", system("kill -INT $$; exit 1") & 127);
    say_action("after system", SIGINT);
    signal(SIGINT, SIG_DFL);
    printf("%d\n", system("exit 3"));
    say_action("after system", SIGINT);
    return done();
}

static const struct rig_scenario scenarios[] = {
    {"untouched", untouched},
    {"sigaction", by_sigaction},
    {"failing_sigaction", by_failing_sigaction},
    {"kin", by_kin},
    {"system_v", by_system_v},
    {"siginterrupt", by_siginterrupt},
    {"after_exec", after_exec},
    {"after_fork", after_fork},
    {"system", during_system},
};

static void the_view_is_the_bare_one(void **state) {
    rig_assert_same_as_bare(*state, NULL, NULL);
    rig_assert_same_as_bare(*state, "signal=none", NULL);
    rig_assert_same_as_bare(*state, "signal=USR2", NULL);
    rig_assert_same_as_bare(*state, rig_ledger_options(NULL), NULL);
}

int main(int argc, char **argv) {
    enum {
        COUNT = sizeof scenarios / sizeof *scenarios
    };
    rig_start(argc, argv, scenarios, COUNT);
    struct CMUnitTest tests[COUNT];
    for (int i = 0; i < COUNT; i++)
        tests[i] = (struct CMUnitTest){scenarios[i].name, the_view_is_the_bare_one, NULL, NULL,
                                       (void *)(uintptr_t)scenarios[i].name};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
