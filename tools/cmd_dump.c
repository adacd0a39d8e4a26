// sockleak dump PID: a live process, from outside.
#include "commands.h"
#include "errors.h"
#include "format_options.h"
#include "live.h"
#include "procfs.h"
#include "remote.h"
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char name[] = "dump";

// --- what can go wrong --------------------------------------------------------------------------

static void say_no_permission(pid_t pid) {
    uid_t owner = procfs_uid(pid);
    const struct passwd *user = getpwuid(owner);
    if (owner != geteuid() && owner != (uid_t)-1)
        error_say(
            "process %d belongs to %s: dump it as that user, or as root (sudo sockleak dump %d)",
            (int)pid, user ? user->pw_name : "another user", (int)pid);
    else
        error_say("process %d may not be looked at, though it is yours: it changed its user or "
                  "kernel.yama.ptrace_scope forbids it; dump it as root, or with CAP_SYS_PTRACE",
                  (int)pid);
}

static int say_failure(pid_t pid, int error) {
    if (error == -ESRCH || error == -ENOENT)
        error_say("process %d has ended", (int)pid);
    else if (error == -EPERM || error == -EACCES)
        say_no_permission(pid);
    else if (error == -EPROTO)
        error_say("process %d: its libsockleak.so has no ledger that can be read: it is just "
                  "starting or ending (try again), or of another version",
                  (int)pid);
    else
        error_say("process %d: %s", (int)pid, strerror(-error));
    return STATUS_FAILED;
}

static int say_kernel_failure(pid_t pid, int error) {
    bool is_elsewhere = procfs_namespace(pid, "net") != procfs_namespace(getpid(), "net");
    if (is_elsewhere && (error == -EPERM || error == -EACCES))
        error_say("process %d lives in another network namespace (a container?): dump it as root, "
                  "or from inside: nsenter -t %d -U -n --preserve-credentials sockleak dump %d",
                  (int)pid, (int)pid, (int)pid);
    else
        error_say("process %d: the kernel does not list its sockets (netlink sock_diag): %s",
                  (int)pid, strerror(-error));
    return STATUS_FAILED;
}

static int check_process(pid_t pid) {
    struct procfs_status status;
    int error = procfs_status(pid, &status);
    if (error == -ESRCH)
        error_say("no process %d%s", (int)pid, getpid() < 100 ? " (of this pid namespace)" : "");
    else if (error < 0)
        say_failure(pid, error);
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
        snprintf(note, sizeof note,
                 "of %u sockets in CLOSE_WAIT, end of stream was read on %u (or came with the last "
                 "data) and not on %u",
                 process->fin_read + process->fin_not_read, process->fin_read,
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

static int gather(struct report *report, struct live *live, pid_t pid) {
    // First the descriptors, then the ledger, then the kernel: what is closed in between is seen to
    // be, and what is opened in between is left out.
    int error = live_add(live, pid);
    if (error < 0)
        return say_failure(pid, error);
    int found = add_ledger(report, pid);
    if (found == -EBADMSG)
        return STATUS_FAILED; // said so
    if (found < 0)
        return say_failure(pid, found);
    live_ask_kernel(live);
    const struct live_process *process = &live->processes[0];
    if (process->kernel_error < 0)
        return say_kernel_failure(pid, process->kernel_error);
    live_observe(process, report, found == REMOTE_NO_LIBRARY ? "not started with sockleak" : NULL);
    if (found == REMOTE_NO_LIBRARY)
        note_not_watched(report, process);
    return STATUS_OK;
}

// --- the command --------------------------------------------------------------------------------

static int dump(pid_t pid, struct format_options *shared) {
    int status = check_process(pid);
    if (status != STATUS_OK)
        return status;
    struct live live = LIVE_EMPTY;
    struct report *report = report_new();
    status = gather(report, &live, pid);
    if (status == STATUS_OK && report_finish(report, &shared->report) < 0)
        status = STATUS_FAILED;
    if (status == STATUS_OK)
        status = format_options_write(shared, report, stdout, false);
    if (status == STATUS_OK)
        status = command_finish_output(STATUS_OK);
    if (status == STATUS_OK && shared->status_asked)
        status = format_options_status(shared, report);
    report_free(report);
    live_free(&live);
    return status;
}

static int dump_main(int argc, char **argv) {
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, FORMAT_LONG_OPTIONS, {NULL, 0, NULL, 0}};
    struct format_options shared = FORMAT_OPTIONS_DEFAULT;
    int c, status = STATUS_OK;
    opterr = 0;
    while (status == STATUS_OK &&
           (c = getopt_long(argc, argv, ":h" FORMAT_SHORT_OPTIONS, options, NULL)) != -1) {
        if (c == 'h') {
            format_options_free(&shared);
            return command_help(&command_dump);
        }
        status = c == '?' || c == ':' ? option_error(name, c, argv, options)
                                      : format_options_accept(&shared, name, c, optarg);
    }
    uint64_t pid = 0;
    if (status == STATUS_OK)
        status = format_options_check(&shared, name);
    if (status == STATUS_OK && optind == argc)
        status = error_usage(name, "which process? Give its PID");
    else if (status == STATUS_OK && optind + 1 < argc)
        status = error_usage(name, "one process at a time: '%s' is too much", argv[optind + 1]);
    else if (status == STATUS_OK && !option_number(argv[optind], 1, INT32_MAX, &pid))
        status = error_usage(name, "'%s' is no process id", argv[optind]);
    if (status == STATUS_OK)
        status = dump((pid_t)pid, &shared);
    format_options_free(&shared);
    return status;
}

const struct command command_dump = {
    .name = name,
    .usage = "[options] PID",
    .summary = "look at a live process, without stopping or signalling it",
    .about =
        "Reads the ledger of a process that runs under libsockleak.so, and joins it with what the\n"
        "kernel knows of its sockets now. A process that was not started with the library shows\n"
        "the kernel's view: states, ages, peers, and whether end of stream was read.\n"
        "What is in its state for less than a second is no leak yet.\n\n"
        "Needs the right to trace the process: the same user, or root. The exit status is 0\n"
        "whatever is found, unless --fail-on, --exit-code or --baseline asks for another.\n",
    .options = "  -h, --help              this help\n",
    .has_format_options = true,
    .examples = "  sockleak dump 4711\n"
                "  sockleak dump --format=json --show=all 4711\n",
    .main = dump_main,
};
