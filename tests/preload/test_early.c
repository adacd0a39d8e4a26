// Any function that we interpose may be the first that is called, before our constructor and before
// libc's own: each is, in a process of its own, and answers what it answers bare.
#include "rig.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// What the headers declare under another name, or not at all.
ssize_t __read(int, void *, size_t);
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
int __connect(int, const struct sockaddr *, socklen_t);
int __dup2(int, int);
int __fcntl(int, int, ...);
int __close(int);
int __sigaction(int, const struct sigaction *, struct sigaction *);
sighandler_t bsd_signal(int, sighandler_t);
sighandler_t __sysv_signal(int, sighandler_t);

enum {
    EXIT_EARLY = 7,
    NO_SIGNAL = 4711,
    FREE_FD = 1000
};

static const char nowhere[] = "/nowhere/at/all";
static char *const nothing[] = {NULL};
static char byte[8];
static struct iovec part = {byte, sizeof byte};

static FILE *a_stream(void) {
    return fopen("/dev/null", "r");
}

static pid_t pid;

// They fail, most of them, or change nothing. daemon() cannot do that, and is missing.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#define CALLS                                                                                      \
    CALL(socket, socket(-1, 0, 0))                                                                 \
    CALL(socketpair, socketpair(-1, 0, 0, (int[2]){0}))                                            \
    CALL(accept, accept(-1, NULL, NULL))                                                           \
    CALL(accept4, accept4(-1, NULL, NULL, 0))                                                      \
    CALL(connect, connect(-1, NULL, 0))                                                            \
    CALL(__connect, __connect(-1, NULL, 0))                                                        \
    CALL(read, read(-1, byte, 1))                                                                  \
    CALL(__read, __read(-1, byte, 1))                                                              \
    CALL(__read_chk, __read_chk(-1, byte, 1, 8))                                                   \
    CALL(readv, readv(-1, &part, 1))                                                               \
    CALL(preadv2, preadv2(-1, &part, 1, -1, 0))                                                    \
    CALL(preadv64v2, preadv64v2(-1, &part, 1, -1, 0))                                              \
    CALL(recv, recv(-1, byte, 1, 0))                                                               \
    CALL(__recv_chk, __recv_chk(-1, byte, 1, 8, 0))                                                \
    CALL(recvfrom, recvfrom(-1, byte, 1, 0, NULL, NULL))                                           \
    CALL(__recvfrom_chk, __recvfrom_chk(-1, byte, 1, 8, 0, NULL, NULL))                            \
    CALL(splice, splice(-1, NULL, -1, NULL, 1, 0))                                                 \
    CALL(shutdown, shutdown(-1, SHUT_RD))                                                          \
    CALL(recvmsg, recvmsg(-1, &(struct msghdr){.msg_name = NULL}, 0))                              \
    CALL(recvmmsg, recvmmsg(-1, NULL, 0, 0, NULL))                                                 \
    CALL(dup, dup(-1))                                                                             \
    CALL(dup2, dup2(-1, FREE_FD))                                                                  \
    CALL(__dup2, __dup2(-1, FREE_FD))                                                              \
    CALL(dup3, dup3(-1, FREE_FD, 0))                                                               \
    CALL(fcntl, fcntl(-1, F_DUPFD, 0))                                                             \
    CALL(__fcntl, __fcntl(-1, F_DUPFD, 0))                                                         \
    CALL(fcntl64, fcntl64(-1, F_DUPFD, 0))                                                         \
    CALL(close, close(FREE_FD))                                                                    \
    CALL(__close, __close(FREE_FD))                                                                \
    CALL(close_range, close_range(FREE_FD, FREE_FD - 1, 0))                                        \
    CALL(closefrom, (closefrom(FREE_FD), 0))                                                       \
    CALL(fclose, fclose(a_stream()))                                                               \
    CALL(fcloseall, fcloseall())                                                                   \
    CALL(freopen, (freopen(nowhere, "r", a_stream()) != NULL))                                     \
    CALL(freopen64, (freopen64(nowhere, "r", a_stream()) != NULL))                                 \
    CALL(_exit, (_exit(EXIT_EARLY), 0))                                                            \
    CALL(_Exit, (_Exit(EXIT_EARLY), 0))                                                            \
    CALL(quick_exit, (quick_exit(EXIT_EARLY), 0))                                                  \
    CALL(clone, clone(NULL, NULL, 0, NULL))                                                        \
    CALL(prctl, prctl(-1, 0, 0, 0, 0))                                                             \
    CALL(dlclose, dlclose(dlopen(NULL, RTLD_LAZY)))                                                \
    CALL(chroot, chroot(nowhere))                                                                  \
    CALL(execve, execve(nowhere, nothing, nothing))                                                \
    CALL(execv, execv(nowhere, nothing))                                                           \
    CALL(execvp, execvp(nowhere, nothing))                                                         \
    CALL(execvpe, execvpe(nowhere, nothing, nothing))                                              \
    CALL(execl, execl(nowhere, nowhere, (char *)NULL))                                             \
    CALL(execlp, execlp(nowhere, nowhere, (char *)NULL))                                           \
    CALL(execle, execle(nowhere, nowhere, (char *)NULL, nothing))                                  \
    CALL(fexecve, fexecve(-1, nothing, nothing))                                                   \
    CALL(execveat, execveat(-1, nowhere, nothing, nothing, 0))                                     \
    CALL(posix_spawn, posix_spawn(&pid, nowhere, NULL, NULL, nothing, nothing))                    \
    CALL(posix_spawnp, posix_spawnp(&pid, nowhere, NULL, NULL, nothing, nothing))                  \
    CALL(system, system(NULL))                                                                     \
    CALL(popen, (popen("true", "neither") != NULL))                                                \
    CALL(sigaction, sigaction(NO_SIGNAL, NULL, NULL))                                              \
    CALL(__sigaction, __sigaction(NO_SIGNAL, NULL, NULL))                                          \
    CALL(signal, (long)signal(NO_SIGNAL, SIG_DFL))                                                 \
    CALL(bsd_signal, (long)bsd_signal(NO_SIGNAL, SIG_DFL))                                         \
    CALL(ssignal, (long)ssignal(NO_SIGNAL, SIG_DFL))                                               \
    CALL(sysv_signal, (long)sysv_signal(NO_SIGNAL, SIG_DFL))                                       \
    CALL(__sysv_signal, (long)__sysv_signal(NO_SIGNAL, SIG_DFL))                                   \
    CALL(sigset, (long)sigset(NO_SIGNAL, SIG_DFL))                                                 \
    CALL(sigignore, sigignore(NO_SIGNAL))                                                          \
    CALL(syscall, syscall(-1))

static const char *const names[] = {
#define CALL(name, call) #name,
    CALLS
#undef CALL
};

static const char *called;
static long answer;
static int answer_errno;

static void call(const char *name) {
    errno = 0;
#define CALL(function, expression)                                                                 \
    if (strcmp(name, #function) == 0) {                                                            \
        called = #function;                                                                        \
        answer = (expression);                                                                     \
    }
    // cppcheck-suppress [leakReturnValNotUsed, leakNoVarFunctionCall] ; the process is short
    CALLS
#undef CALL
    answer_errno = errno;
}
#pragma GCC diagnostic pop

// Before the constructors of all libraries (ELF gABI, "Initialization and Termination Functions").
// libc has not set `environ` yet.
static void before_all(int argc, char **argv, char **environment) {
    (void)argc, (void)argv;
    for (; *environment; environment++)
        if (strncmp(*environment, "EARLY_CALL=", 11) == 0)
            call(*environment + 11);
}

__attribute__((section(".preinit_array"), used)) static void (*const first)(int, char **,
                                                                            char **) = before_all;

static int tell(void) {
    dprintf(1, "%s: %ld, errno %d\n", called ? called : "none", answer, answer_errno);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return close(fd);
}

static const struct rig_scenario scenarios[] = {{"tell", tell}};

static void each_function_may_be_the_first_that_is_called(void **state) {
    (void)state;
    struct rig_result result;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        setenv("EARLY_CALL", names[i], 1);
        rig_assert_same_as_bare("tell", NULL, &result);
        bool ends = strstr(names[i], "xit") != NULL;
        assert_int_equal(result.status, ends ? EXIT_EARLY << 8 : 0);
        assert_int_equal(rig_count(result.out, names[i]), ends ? 0 : 1);
        assert_string_equal(result.err, "");
    }
    unsetenv("EARLY_CALL");
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_function_may_be_the_first_that_is_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
