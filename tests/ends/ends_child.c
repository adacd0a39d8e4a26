// Parents and children: the leak is one process's, and is told once.
#include "base/sys.h"
#include "ends.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

// --- the child leaks ----------------------------------------------------------------------------

static int child_returns(int unused) {
    (void)unused;
    pid_t pid = fork();
    if (pid == 0) {
        leak_one();
        return 41;
    }
    tell_end_of(pid);
    return 42;
}

static int child__exits(int unused) {
    (void)unused;
    pid_t pid = fork();
    if (pid == 0) {
        leak_one();
        _exit(43);
    }
    tell_end_of(pid);
    return 44;
}

static int quiet_child__exits(int unused) {
    (void)unused;
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        leak_one();
        _exit(45);
    }
    tell_end_of(pid);
    return 46;
}

static int child_of_a_new_session(int unused) {
    (void)unused;
    pid_t pid = fork();
    if (pid == 0) {
        if (setsid() < 0)
            _exit(1);
        leak_one();
        exit(47);
    }
    tell_end_of(pid);
    return 48;
}

// --- the parent leaks, and has children that hold the same socket -------------------------------

static int child_of_a_leaker(int unused) {
    (void)unused;
    leak_one();
    pid_t pid = fork();
    if (pid == 0)
        exit(51);
    tell_end_of(pid);
    return 52;
}

static int vfork_and_exec(int unused) {
    (void)unused;
    leak_one();
    fflush(stdout);
    pid_t pid = vfork();
    if (pid == 0) {
        execlp("sh", "sh", "-c", "echo executed; exit 5", (char *)NULL);
        _exit(1);
    }
    tell_end_of(pid);
    return 53;
}

static int vfork_and__exit(int unused) {
    (void)unused;
    leak_one();
    pid_t pid = vfork();
    if (pid == 0)
        _exit(5);
    tell_end_of(pid);
    return 54;
}

static int spawn(int unused) {
    posix_spawn_file_actions_t actions;
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)"echo spawned >&7; exit 6", NULL};
    pid_t pid = -1;
    (void)unused;
    int fd = leak_one();
    fflush(stdout);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, fd);
    posix_spawn_file_actions_adddup2(&actions, 1, 7);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    printf("posix_spawn %d\n", posix_spawnp(&pid, "sh", &actions, NULL, argv, environ));
    posix_spawn_file_actions_destroy(&actions);
    tell_end_of(pid);
    return 55;
}

static int run_shell(int unused) {
    (void)unused;
    leak_one();
    fflush(stdout);
    printf("system %d\n", WEXITSTATUS(system("echo in the shell; exit 8")));
    return 56;
}

static int open_pipe(int unused) {
    char line[64] = "";
    (void)unused;
    leak_one();
    FILE *pipe = popen("echo through the pipe; exit 9", "r");
    if (!pipe || !fgets(line, sizeof line, pipe))
        return 1;
    printf("%s", line);
    printf("pclose %d\n", WEXITSTATUS(pclose(pipe)));
    return 57;
}

// --- daemons ------------------------------------------------------------------------------------

static int by_daemon(int keep_streams) {
    printf("before\n");
    fflush(stdout);
    if (daemon(0, keep_streams) != 0)
        return 1;
    leak_one();
    return 61;
}

static int daemon_with_the_leak(int keep_streams) {
    leak_one();
    printf("before\n");
    fflush(stdout);
    return daemon(0, keep_streams) == 0 ? 62 : 1;
}

static void close_all(void) {
    for (int fd = 0; fd < 256; fd++)
        close(fd);
}

static int double_fork(int unused) {
    (void)unused;
    fflush(stdout);
    pid_t pid = fork();
    if (pid > 0) {
        tell_end_of(pid);
        return 63;
    }
    setsid();
    if (fork() > 0)
        _exit(64);
    close_all();
    leak_one();
    exit(65);
}

#define NO_STDERR "its stderr is not the one that it was started with"

static const struct end rows[] = {
    {"fork, the child returns from main", child_returns, 0, BY_PRELOAD, NULL},
    {"fork, the child calls _exit", child__exits, 0, BY_PRELOAD, NULL},
    {"clone by its number, the child calls _exit", quiet_child__exits, 0, BY_PRELOAD, NULL},
    {"fork and setsid", child_of_a_new_session, 0, BY_PRELOAD, NULL},
    {"fork, the parent leaks", child_of_a_leaker, 0, BY_PRELOAD, NULL},
    {"vfork and exec", vfork_and_exec, 0, BY_PRELOAD, NULL},
    {"vfork and _exit", vfork_and__exit, 0, BY_PRELOAD, NULL},
    {"posix_spawn with file actions", spawn, 0, BY_PRELOAD, NULL},
    {"system", run_shell, 0, BY_PRELOAD, NULL},
    {"popen", open_pipe, 0, BY_PRELOAD, NULL},
    {"daemon(3)", by_daemon, 0, BY_RUN, NO_STDERR},
    {"daemon(3) that keeps its streams", by_daemon, 1, BY_PRELOAD, NULL},
    {"daemon(3) with a leak from before", daemon_with_the_leak, 1, BY_PRELOAD, NULL},
    {"double fork, all descriptors closed", double_fork, 0, BY_RUN, NO_STDERR},
};

struct ends ends_with_children(void) {
    return (struct ends){rows, sizeof rows / sizeof *rows};
}
