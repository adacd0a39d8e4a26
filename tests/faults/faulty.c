// The program that is watched while our calls fail: it says what each of its calls gave, which
// descriptors it has, and what its signal mask is. All that must be as bare, whatever fails.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// A result, the errno that it left, the mask, and the highest descriptor in use.
static void tell(const char *what, long result) {
    int error = errno;
    uint64_t mask = 0, pending = 0;
    int fd = 255;
    while (fd >= 0 && sys_call(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0) < 0)
        fd--;
    sys_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&mask, sizeof mask, 0, 0);
    sys_call(SYS_rt_sigpending, (long)&pending, sizeof pending, 0, 0, 0, 0);
    printf("%s: %ld, errno %d, mask %llx, pending %llx, last fd %d\n", what, result, error,
           (unsigned long long)mask, (unsigned long long)pending, fd);
    errno = 4711;
}

__attribute__((noinline)) static int leak_here(void) { // by its name in a report
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    tell("accept", pair.server);
    rig_peer_closes(pair);
    tell("recv", recv(pair.server, &byte, 1, 0));
    return pair.server;
}

static void use_everything(void) {
    int pair[2], fd = socket(AF_INET, SOCK_STREAM, 0);
    char byte;
    tell("socket", fd);
    tell("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    tell("dup", dup(fd));
    tell("dup2", dup2(fd, 20));
    tell("close", close(fd));
    tell("close again", close(fd));
    tell("write", write(pair[0], "x", 1));
    tell("read", read(pair[1], &byte, 1));
    tell("shutdown", shutdown(pair[0], SHUT_WR));
    tell("read the end", read(pair[1], &byte, 1));
    tell("recv of no socket", recv(0, &byte, 1, 0));
    tell("close_range", close_range(3, 30, 0));
}

static int create(void) {
    errno = 4711;
    leak_here();
    use_everything();
    leak_here();
    return 3;
}

// A different stack for each number: two call sites, taken by its bits.
static __attribute__((noinline)) int by_bits(unsigned number, int bits) {
    if (bits == 0)
        return socket(AF_UNIX, SOCK_DGRAM, 0);
    int fd = number & 1 ? by_bits(number >> 1, bits - 1) : -1;
    USE(fd);
    if ((number & 1) == 0)
        fd = by_bits(number >> 1, bits - 1);
    USE(fd);
    return fd;
}

// Records and stacks of several growth steps, the first of which is a page (faults.mk).
enum {
    SOCKETS = 40
};

static int grow(void) {
    leak_here();
    for (unsigned i = 0; i < SOCKETS; i++) {
        int fd = by_bits(i, 6);
        if (fd < 0 || i == SOCKETS - 1)
            tell("by_bits", fd);
    }
    return 3;
}

static int capture(void) {
    leak_here();
    const char *path = getenv("PLUGIN");
    void *plugin = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*open_socket)(void) = plugin ? (int (*)(void))dlsym(plugin, "plugin_socket") : NULL;
    tell("plugin", open_socket ? open_socket() : -1);
    tell("dlclose", plugin ? dlclose(plugin) : -1);
    tell("socket", socket(AF_INET, SOCK_STREAM, 0));
    return 3;
}

static int fork_and_end(void) {
    close(leak_here());
    fflush(stdout);
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        leak_here();
        exit(4);
    }
    waitpid(pid, &status, 0);
    tell("child", status);
    fflush(stdout);
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); // runs no atfork handlers
    if (pid == 0) {
        leak_here();
        fflush(stdout);
        _exit(5);
    }
    waitpid(pid, &status, 0);
    tell("quiet child", status);
    leak_here();
    return 3;
}

static int end_by_signal(void) {
    leak_here();
    fflush(stdout);
    raise(SIGUSR1);
    tell("after SIGUSR1", 0);
    fflush(stdout);
    raise(SIGTERM);
    return 1;
}

// Bare, SIGUSR1 would end it.
static void nothing(int number) {
    (void)number;
}

static int report_by_signal(void) {
    signal(SIGUSR1, nothing);
    return end_by_signal();
}

static const struct rig_scenario scenarios[] = {
    {"create", create},           {"grow", grow}, {"capture", capture}, {"fork", fork_and_end},
    {"signal", report_by_signal},
};

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    signal(SIGALRM, SIG_DFL);
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    return 2;
}
