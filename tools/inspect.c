#include "inspect.h"
#include "errors.h"
#include "live.h"
#include "procfs.h"
#include "remote.h"
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// --- what can go wrong --------------------------------------------------------------------------

static void say_no_permission(pid_t pid, const char *command) {
    uid_t owner = procfs_uid(pid);
    const struct passwd *user = getpwuid(owner);
    if (owner != geteuid() && owner != (uid_t)-1)
        error_say("process %d belongs to %s: %s it as that user, or as root (sudo sockleak %s %d)",
                  (int)pid, user ? user->pw_name : "another user", command, command, (int)pid);
    else
        error_say("process %d may not be looked at, though it is yours: it changed its user or "
                  "kernel.yama.ptrace_scope forbids it; %s it as root, or with CAP_SYS_PTRACE",
                  (int)pid, command);
}

static int say_failure(pid_t pid, const char *command, int error) {
    if (error == -ESRCH || error == -ENOENT)
        error_say("process %d has ended", (int)pid);
    else if (error == -EPERM || error == -EACCES)
        say_no_permission(pid, command);
    else if (error == -EPROTO)
        error_say("process %d: its libsockleak.so has no ledger that can be read: it is just "
                  "starting or ending (try again), or of another version",
                  (int)pid);
    else
        error_say("process %d: %s", (int)pid, strerror(-error));
    return STATUS_FAILED;
}

static int say_kernel_failure(pid_t pid, const char *command, int error) {
    bool is_elsewhere = procfs_namespace(pid, "net") != procfs_namespace(getpid(), "net");
    if (is_elsewhere && (error == -EPERM || error == -EACCES))
        error_say("process %d lives in another network namespace (a container?): %s it as root, "
                  "or from inside: nsenter -t %d -U -n --preserve-credentials sockleak %s %d",
                  (int)pid, command, (int)pid, command, (int)pid);
    else
        error_say("process %d: the kernel does not list its sockets (netlink sock_diag): %s",
                  (int)pid, strerror(-error));
    return STATUS_FAILED;
}

// A number means another process to the system calls than in /proc, where that was mounted in
// another pid namespace: unshare(1) without --mount-proc leaves it like this.
static bool is_proc_ours(void) {
    char own[16], target[16];
    ssize_t len = readlink("/proc/self", target, sizeof target - 1);
    snprintf(own, sizeof own, "%d", (int)getpid());
    target[len > 0 ? len : 0] = '\0';
    return strcmp(own, target) == 0;
}

int inspect_check(pid_t pid, const char *command) {
    struct procfs_status status;
    if (!is_proc_ours()) {
        error_say("/proc is that of another pid namespace: mount this one's (mount -t proc proc "
                  "/proc), or %s from outside",
                  command);
        return STATUS_FAILED;
    }
    int error = procfs_status(pid, &status);
    if (error == -ESRCH)
        error_say("no process %d%s", (int)pid, getpid() < 100 ? " (of this pid namespace)" : "");
    else if (error < 0)
        say_failure(pid, command, error);
    else if (status.state == 'Z' || status.state == 'X')
        error_say("process %d has ended: its parent, %d, has not waited for it", (int)pid,
                  (int)status.parent);
    else
        return STATUS_OK;
    return STATUS_FAILED;
}

// --- the ledger ---------------------------------------------------------------------------------

// Returns an enum remote_found, or -errno.
static int add_ledger(struct report *report, pid_t pid) {
    struct remote_ledger ledger;
    char label[32];
    int found = remote_ledger_find(pid, &ledger);
    if (found != REMOTE_LEDGER)
        return found;
    snprintf(label, sizeof label, "process %d", (int)pid);
    struct ledger_source source = {remote_ledger_read, &ledger, ledger.bytes, label};
    int error = report_add_ledger_source(report, &source);
    return error < 0 ? error : REMOTE_LEDGER;
}

static void note_not_watched(struct report *report, const struct live_process *process) {
    char note[512];
    if (process->fin_read + process->fin_not_read) {
        snprintf(
            note, sizeof note,
            "of %u socket%s in CLOSE_WAIT, end of stream was read on %u (or came with the last "
            "data) and not on %u",
            process->fin_read + process->fin_not_read,
            process->fin_read + process->fin_not_read == 1 ? "" : "s", process->fin_read,
            process->fin_not_read);
        report_note_text(report, note);
    }
    snprintf(
        note, sizeof note,
        "this is what the kernel knows of process %d. Started by 'sockleak run -- COMMAND', it "
        "would also tell which code opened each socket, where it read end of stream, and when",
        (int)process->pid);
    report_note_text(report, note);
}

static void note_not_accepted(struct report *report, const struct live_process *process) {
    char note[256];
    if (process->not_accepted == 0)
        return;
    snprintf(note, sizeof note,
             "%u more in CLOSE_WAIT not accepted yet: they wait for process %d to call accept",
             process->not_accepted, (int)process->pid);
    report_note_text(report, note);
}

static int gather(pid_t pid, const char *command, struct report *report, struct live *live) {
    // First the descriptors, then the ledger, then the kernel: what is closed in between is seen to
    // be, and what is opened in between is left out.
    int error = live_add(live, pid);
    if (error < 0)
        return say_failure(pid, command, error);
    int found = add_ledger(report, pid);
    if (found == -EBADMSG)
        return STATUS_FAILED; // said so
    if (found < 0)
        return say_failure(pid, command, found);
    live_ask_kernel(live);
    struct live_process *process = &live->processes[0];
    process->has_its_ledger = found == REMOTE_LEDGER && live_runs_the_same(process);
    if (process->kernel_error < 0)
        return say_kernel_failure(pid, command, process->kernel_error);
    live_observe(process, report, found == REMOTE_NO_LIBRARY ? "not started with sockleak" : NULL);
    note_not_accepted(report, process);
    if (found == REMOTE_NO_LIBRARY)
        note_not_watched(report, process);
    return STATUS_OK;
}

int inspect_process(pid_t pid, const char *command, struct report *report) {
    struct live live = LIVE_EMPTY;
    int status = gather(pid, command, report, &live);
    live_free(&live);
    return status;
}
