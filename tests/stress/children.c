// Operations that make a child. The child goes on with a copy of the model, so the same is asked of
// the library there; the operation ends when the child has.
#include "base/sys.h"
#include "stress.h"
#include <dirent.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t _Fork(void); // <unistd.h>, glibc 2.34

extern char **environ;

enum {
    CHILD_OPERATIONS = 40,
    STACK_BYTES = 65536,
};

static void wait_for(const struct actor *actor, const char *what, long pid) {
    int status = 0;
    if (pid < 0)
        return;
    while (sys_call(SYS_wait4, pid, (long)&status, 0, 0, 0, 0) < 0)
        ;
    stress_trace(actor, what, pid, 0, status);
    if (status != 0) {
        dprintf(1, "stress: a child of operation %llu (%s) ended with status %#x\n",
                (unsigned long long)actor->operation, what, (unsigned)status);
        __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
    }
}

static void refresh_all(void) {
    model_lock();
    for (int fd = 0; fd < MODEL_FDS; fd++)
        model_refresh(fd);
    model_unlock();
}

// What a daemon does to be rid of its parent's descriptors.
static void close_everything(struct actor *actor) {
    sites_close_pipe();
    switch (stress_below(actor, 3)) {
    case 0:
        closefrom(3);
        break;
    case 1:
        close_range(3, ~0u, 0);
        break;
    case 2:
        for (int fd = 3; fd < MODEL_FDS; fd++)
            close(fd);
        break;
    }
    stress_trace(actor, "close everything", 3, 0, 0);
    refresh_all();
}

static void run_some(struct actor *actor) {
    unsigned count = stress_below(actor, CHILD_OPERATIONS);
    for (unsigned i = 0; i < count; i++)
        operation_run(actor);
}

static _Noreturn void end(struct actor *actor, bool good) {
    int status = good ? 0 : 1;
    switch (stress_below(actor, actor->bare ? 3 : 5)) {
    case 0:
        _exit(status);
    case 1:
        _Exit(status);
    case 3:
        quick_exit(status);
    case 4:
        exit(status);
    default:
        break;
    }
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}

// By a system call: timer_create takes memory, and malloc's lock may be that of a thread that is
// not here.
static void be_interrupted(void) {
    struct sigaction action = {.sa_handler = stress_on_interruption}; // no SA_RESTART
    struct itimerval often = {.it_interval.tv_sec = 1, .it_value.tv_sec = 1};
    sigaction(SIGALRM, &action, NULL);
    sys_call(SYS_setitimer, ITIMER_REAL, (long)&often, 0, 0, 0, 0);
}

static _Noreturn void live(struct actor *actor, bool has_model) {
    if (has_model)
        model_forked();
    be_interrupted();
    sites_close_pipe();
    actor->depth = 1;
    actor->random = stress_mix(actor->random, actor->operation);
    bool good = stress_below(actor, 2) || check_all(actor);
    run_some(actor);
    good = good && check_all(actor);
    if (good && !stress_below(actor, 4)) {
        close_everything(actor);
        run_some(actor);
        good = check_all(actor);
    }
    end(actor, good);
}

static long fork_somehow(struct actor *actor, const char **what) {
    switch (stress_below(actor, 4)) {
    case 0:
        *what = "_Fork";
        return _Fork();
    case 1:
        *what = "clone by number";
        return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#ifdef SYS_fork
    case 2:
        *what = "fork by number";
        return syscall(SYS_fork);
#endif
    default:
        *what = "fork";
        return fork();
    }
}

void children_fork(struct actor *actor) {
    const char *what;
    model_lock(); // the model is whole in the child, whatever other threads are at
    bool alone = model.exact;
    model_operation(actor->number % settings.threads + 1,
                    false); // this thread goes on in the child
    long pid = fork_somehow(actor, &what);
    if (pid == 0) {
        actor->bare = !alone; // also after fork: the other threads' stdio locks
        stress_trace(actor, what, 0, 0, 0);
        live(actor, true);
    }
    model_unlock();
    wait_for(actor, what, pid);
}

static int some_fd(struct actor *actor) {
    int first = 3 + (int)stress_below(actor, 40), fd = first;
    model_lock();
    while (fd < STRESS_RESERVED_FD && !model.fds[fd])
        fd++;
    model_unlock();
    return fd < STRESS_RESERVED_FD ? fd : first;
}

// Its descriptors are a copy, its memory is not: nothing that it closes is closed here.
void children_vfork(struct actor *actor) {
    int fd = some_fd(actor);
    pid_t pid = vfork();
    if (pid == 0) {
        close(fd);
        int opened = socket(AF_INET, SOCK_STREAM, 0);
        dup2(opened, fd + 1);
        close_range(3, 20, 0);
        _exit(0);
    }
    wait_for(actor, "vfork", pid);
}

void children_spawn(struct actor *actor) {
    int fd = some_fd(actor);
    posix_spawn_file_actions_t actions;
    pid_t pid = -1;
    char *argv[] = {(char *)"true", NULL};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, fd);
    posix_spawn_file_actions_adddup2(&actions, 0, fd + 1);
    if (posix_spawn(&pid, "/bin/true", &actions, NULL, argv, environ) == 0)
        wait_for(actor, "posix_spawn", pid);
    posix_spawn_file_actions_destroy(&actions);
}

static int in_shared_memory(void *fd) {
    close(*(int *)fd);
    socket(AF_INET, SOCK_STREAM, 0);
    sys_call(SYS_exit, 0, 0, 0, 0, 0, 0); // this task's only: it is a process of its own
    return 0;
}

void children_clone_vm(struct actor *actor) {
    static __thread char stack[STACK_BYTES] __attribute__((aligned(16)));
    int fd = some_fd(actor);
    wait_for(actor, "clone(CLONE_VM)",
             clone(in_shared_memory, stack + STACK_BYTES, CLONE_VM | SIGCHLD, &fd));
}

// --- exec ---------------------------------------------------------------------------------------

void children_exec(struct actor *actor) {
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)stress_random(actor));
    char *argv[] = {(char *)"stress", (char *)"--after-exec", seed,
                    (char *)(model.exact ? "alone" : "beside others"), NULL};
    model_lock();
    long pid = sys_call(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0) {
        sites_close_pipe();
        execve("/proc/self/exe", argv, environ);
        sys_call(SYS_exit_group, 126, 0, 0, 0, 0, 0);
    }
    model_unlock();
    wait_for(actor, "exec", pid);
}

// In the new program: the sockets that were left to it have no origin that it could know.
int children_after_exec(char **argv) {
    struct actor actor = {.random = strtoull(argv[2], NULL, 10)};
    settings = (struct settings){.processes = 1, .threads = 1};
    shared->pids[0] = (uint32_t)getpid();
    shared->channel_in[0] = shared->channel_out[0] = -1;
    model.exact = true;
    model.parent_moves = strcmp(argv[3], "alone") != 0;
    for (int fd = 3; fd < MODEL_FDS; fd++)
        if (model_inode(fd))
            model_unseen(fd);
    int first = socket(AF_INET, SOCK_STREAM, 0); // no ledger without a socket event, and no report
    close(first);
    live(&actor, false);
}
