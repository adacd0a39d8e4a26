// Ends by a signal, and signals that are none.
#include "base/sys.h"
#include "ends.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int by_abort(int unused) {
    (void)unused;
    leak_one();
    abort();
}

static int by_default(int number) {
    leak_one();
    raise(number);
    return 1;
}

static int by_fault(int unused) {
    (void)unused;
    leak_one();
    *(volatile int *)(uintptr_t)8 = 1; // NOLINT: a crash is what is wanted
    return 1;
}

static volatile sig_atomic_t handled;

static void handle(int number) {
    handled = number;
}

static int with_handler(int number) {
    signal(number, handle);
    leak_one();
    raise(number);
    printf("handled %d\n", handled);
    return 21;
}

static void handle_and_leave(int number) {
    _exit(100 + number);
}

static int with_handler_that_leaves(int number) {
    leak_one();
    signal(number, handle_and_leave);
    raise(number);
    return 1;
}

static void handle_and_raise_again(int number) {
    signal(number, SIG_DFL);
    raise(number);
}

static int with_handler_that_raises_again(int number) {
    signal(number, handle_and_raise_again);
    leak_one();
    raise(number);
    return 1;
}

static int ignored(int number) {
    signal(number, SIG_IGN);
    leak_one();
    raise(number);
    puts("ignored");
    return 22;
}

static sigset_t block(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return set;
}

static int blocked(int number) {
    sigset_t pending;
    leak_one();
    block(number);
    raise(number);
    sigpending(&pending);
    printf("pending %d\n", sigismember(&pending, number));
    return 23;
}

static int unblocked(int number) {
    leak_one();
    sigset_t set = block(number);
    raise(number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return 1;
}

static int by_sigwait(int number) {
    int got = 0;
    leak_one();
    sigset_t set = block(number);
    kill(getpid(), number);
    sigwait(&set, &got);
    printf("sigwait %d\n", got);
    return 24;
}

static int by_signalfd(int number) {
    struct signalfd_siginfo info = {0};
    leak_one();
    sigset_t set = block(number);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    kill(getpid(), number);
    if (read(fd, &info, sizeof info) != (ssize_t)sizeof info)
        return 1;
    printf("signalfd %d, signal %u\n", fd, info.ssi_signo);
    return 25;
}

#define EACH(name, number)                                                                         \
    {name ", default action", by_default, number, BY_PRELOAD, NULL},                               \
        {name ", default, blocked and unblocked", unblocked, number, BY_PRELOAD, NULL},            \
        {name " with a handler", with_handler, number, BY_PRELOAD, NULL},                          \
        {name " with a handler that calls _exit", with_handler_that_leaves, number, BY_PRELOAD,    \
         NULL},                                                                                    \
        {name " with a handler that raises it again", with_handler_that_raises_again, number,      \
         BY_PRELOAD, NULL},                                                                        \
        {name " ignored", ignored, number, BY_PRELOAD, NULL},                                      \
        {name " blocked", blocked, number, BY_PRELOAD, NULL},                                      \
        {name " by sigwait", by_sigwait, number, BY_PRELOAD, NULL}, {                              \
        name " by signalfd", by_signalfd, number, BY_PRELOAD, NULL                                 \
    }

static const struct end rows[] = {
    EACH("SIGTERM", SIGTERM),
    EACH("SIGINT", SIGINT),
    EACH("SIGHUP", SIGHUP),
    {"abort", by_abort, 0, BY_RUN, "a crash is left alone"},
    {"SIGSEGV", by_fault, 0, BY_RUN, "a crash is left alone"},
    {"SIGKILL", by_default, SIGKILL, BY_RUN, "nothing runs any more"},
};

struct ends ends_by_signal(void) {
    return (struct ends){rows, sizeof rows / sizeof *rows};
}
