#include "run_spawn.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
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
    close(child->signals_fd);
}

int run_start(struct run_child *child, char *const *argv, char *const *environment) {
    int report[2];
    sigset_t all;
    sigfillset(&all);
    child->signals_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (child->signals_fd < 0)
        return -errno;
    if (pipe2(report, O_CLOEXEC) < 0) {
        int error = -errno;
        close(child->signals_fd);
        return error;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
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

static void pass_on(const struct run_child *child, const struct signalfd_siginfo *info) {
    int signal = (int)info->ssi_signo;
    // The kernel sends to the whole process group, of which the command is a part: the terminal's
    // keys, its hang-up and its size. And what the command sends us, it does not want back.
    if (info->ssi_code > 0 || (pid_t)info->ssi_pid == child->pid)
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

struct pace {
    long pause_ms; // between two looks at all
    long due_ms;   // the next one
};

// Looks at all, and decides when to do so again.
static void look_at_all(const struct run_looks *looks, struct pace *pace) {
    long start_ms = milliseconds();
    long pause_ms = looks->all(looks->context) ? LOOK_MIN_MS : pace->pause_ms * 2;
    long now_ms = milliseconds(), least_ms = (now_ms - start_ms) * LOOK_SHARE;
    pause_ms = pause_ms < LOOK_MAX_MS ? pause_ms : LOOK_MAX_MS;
    pace->pause_ms = pause_ms > least_ms ? pause_ms : least_ms;
    pace->due_ms = now_ms + pace->pause_ms;
}

// Waits for a signal (`*info`, true), for a new ledger, or until the next look is due.
static bool wait_for_signal(int signals_fd, int ledgers_fd, long due_ms,
                            struct signalfd_siginfo *info) {
    struct pollfd fds[] = {{.fd = signals_fd, .events = POLLIN},
                           {.fd = ledgers_fd, .events = POLLIN}};
    long left_ms = due_ms - milliseconds();
    left_ms = left_ms < 0 ? 0 : left_ms < LOOK_MAX_MS ? left_ms : LOOK_MAX_MS;
    return poll(fds, 2, (int)left_ms) > 0 && fds[0].revents &&
           read(signals_fd, info, sizeof *info) == sizeof *info;
}

int run_wait(const struct run_child *child, const struct run_looks *looks) {
    struct pace pace = {LOOK_MIN_MS, milliseconds() + LOOK_MIN_MS};
    int status = 0;
    while (!reap(child, &status)) {
        struct signalfd_siginfo info;
        if (wait_for_signal(child->signals_fd, looks->ledgers_fd, pace.due_ms, &info)) {
            if (info.ssi_signo != SIGCHLD)
                pass_on(child, &info);
            continue;
        }
        looks->often(looks->context);
        if (milliseconds() >= pace.due_ms)
            look_at_all(looks, &pace);
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
