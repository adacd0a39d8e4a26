#include "run_spawn.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    LOOK_MIN_MS = 2, // what lives for less may be missed
    LOOK_MAX_MS = 50,
    LOOK_SHARE = 50, // of the time: one of so many
    ORPHAN_PAUSE_MS = 10
};

// --- starting -----------------------------------------------------------------------------------

static void exec_child(const struct run_child *child, char *const *argv, char *const *environment,
                       int report_fd) {
    sigaction(SIGCHLD, &child->chld_before, NULL);
    sigprocmask(SIG_SETMASK, &child->mask_before, NULL);
    execvpe(argv[0], argv, environment);
    int error = errno;
    // A short write here would be a success there: nothing better can be done.
    if (write(report_fd, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

static int read_exec_error(int fd) {
    int error = 0;
    ssize_t len;
    do
        len = read(fd, &error, sizeof error);
    while (len < 0 && errno == EINTR);
    return len == sizeof error ? -error : 0;
}

static void release_signals(const struct run_child *child) {
    sigaction(SIGCHLD, &child->chld_before, NULL);
    sigprocmask(SIG_SETMASK, &child->mask_before, NULL);
}

int run_start(struct run_child *child, char *const *argv, char *const *environment) {
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0)
        return -errno;
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &child->mask_before);
    // Were SIGCHLD ignored, as nohup-like starters may leave it, there would be no status to wait
    // for. The command gets it back as it was.
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &standard, &child->chld_before);
    child->pid = fork();
    if (child->pid == 0)
        exec_child(child, argv, environment, report[1]);
    int error = child->pid < 0 ? -errno : 0;
    close(report[1]);
    if (error == 0)
        error = read_exec_error(report[0]);
    close(report[0]);
    if (error < 0) {
        if (child->pid > 0)
            waitpid(child->pid, NULL, 0);
        release_signals(child);
    }
    return error;
}

// --- waiting ------------------------------------------------------------------------------------

static bool is_stopped(pid_t pid) {
    struct procfs_status status;
    return procfs_status(pid, &status) == 0 && status.state == 'T';
}

static void pass_on(const struct run_child *child, int signal, const siginfo_t *info) {
    // The kernel sends to the whole process group, of which the command is a part: the terminal's
    // keys, its hang-up and its size. And what the command sends us, it does not want back.
    if (info->si_code > 0 || info->si_pid == child->pid)
        return;
    // `fg` continues the group, `kill -CONT` only us.
    if (signal == SIGCONT && !is_stopped(child->pid))
        return;
    kill(child->pid, signal);
}

// Takes all children that changed: the command, and orphans that became ours. Returns true when the
// command has ended.
static bool reap(const struct run_child *child, int *status) {
    pid_t pid;
    int changed;
    bool ended = false;
    while ((pid = waitpid(-1, &changed, WNOHANG | WUNTRACED)) > 0) {
        if (pid != child->pid)
            continue;
        if (!WIFSTOPPED(changed)) {
            *status = changed;
            ended = true;
        } else if (WSTOPSIG(changed) != SIGSTOP) {
            // SIGTSTP and its like mean the job. A SIGSTOP may mean that process only: if we
            // stopped, too, who continues it would not know to continue us.
            raise(SIGSTOP);
        }
    }
    return ended;
}

static long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Looks, and returns how long to wait until the next time.
static long look_once(bool (*look)(void *context), void *context, long pause_ms) {
    long start_ms = milliseconds();
    long next_ms = look(context) ? LOOK_MIN_MS : pause_ms * 2;
    long least_ms = (milliseconds() - start_ms) * LOOK_SHARE;
    next_ms = next_ms < LOOK_MAX_MS ? next_ms : LOOK_MAX_MS;
    return next_ms > least_ms ? next_ms : least_ms;
}

int run_wait(const struct run_child *child, bool (*look)(void *context), void *context) {
    sigset_t all;
    sigfillset(&all);
    long pause_ms = LOOK_MIN_MS;
    int status = 0;
    while (!reap(child, &status)) {
        struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
        siginfo_t info;
        int signal = sigtimedwait(&all, &info, &pause);
        if (signal > 0 && signal != SIGCHLD)
            pass_on(child, signal, &info);
        if (signal < 0 && errno == EAGAIN)
            pause_ms = look_once(look, context, pause_ms);
    }
    return status;
}

void run_wait_for_orphans(long wait_ms, bool (*any_left)(void *context), void *context) {
    const struct timespec pause = {.tv_nsec = ORPHAN_PAUSE_MS * 1000000};
    for (; wait_ms > 0 && any_left(context); wait_ms -= ORPHAN_PAUSE_MS) {
        nanosleep(&pause, NULL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

void run_release_signals(const struct run_child *child) {
    const struct timespec at_once = {0};
    sigset_t all;
    siginfo_t info;
    sigfillset(&all);
    while (sigtimedwait(&all, &info, &at_once) > 0)
        ;
    release_signals(child);
}
