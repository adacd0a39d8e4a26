#include "run_gather.h"
#include "live.h"
#include "procfs.h"
#include "remote.h"
#include "run_descendants.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct gathering {
    struct report *report;
    const struct run_directory *directory;
    struct live live;
};

// The library names a ledger PID-STARTTIME.ledger, or PID-STARTTIME-N.ledger after an exec.
static bool has_ledger_file(const struct run_directory *directory, pid_t pid,
                            uint64_t start_ticks) {
    char front[64];
    bool found = false;
    int len = snprintf(front, sizeof front, "%d-%llu", (int)pid, (unsigned long long)start_ticks);
    DIR *dir = opendir(directory->path);
    const struct dirent *entry;
    while (dir && !found && (entry = readdir(dir)))
        found = strncmp(entry->d_name, front, (size_t)len) == 0 &&
                (entry->d_name[len] == '.' || entry->d_name[len] == '-');
    if (dir)
        closedir(dir);
    return found;
}

// Of its programs only the one that runs now has it mapped.
static bool maps_ledger_file(pid_t pid, uint64_t start_ticks) {
    char front[64];
    snprintf(front, sizeof front, "%d-%llu*", (int)pid, (unsigned long long)start_ticks);
    return procfs_has_mapping(pid, front) == 1;
}

static void note_blind(struct report *report, pid_t pid, const char *why) {
    char note[256];
    snprintf(note, sizeof note,
             "process %d still runs, and could not be looked at (%s): what is told of it is the "
             "last that its ledger knew",
             (int)pid, why);
    report_note_text(report, note);
}

// A ledger in private memory: the process could not make a file, as after a chroot. Returns as
// remote_ledger_find().
static int add_private_ledger(struct report *report, pid_t pid) {
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

static void add_live(void *context, pid_t pid) {
    struct gathering *gathering = context;
    struct procfs_status status;
    if (procfs_status(pid, &status) < 0)
        return;
    bool has_file = has_ledger_file(gathering->directory, pid, status.start_ticks);
    // First its descriptors: what it opens later is left out, see live.h.
    int error = live_add(&gathering->live, pid);
    if (error < 0) {
        if (has_file && error != -ESRCH)
            note_blind(gathering->report, pid, strerror(-error));
        return;
    }
    struct live_process *process = &gathering->live.processes[gathering->live.count - 1];
    process->has_its_ledger = has_file && maps_ledger_file(pid, status.start_ticks);
    if (has_file)
        return;
    int found = add_private_ledger(gathering->report, pid);
    process->has_its_ledger = found == REMOTE_LEDGER && live_runs_the_same(process);
    // What opened no socket has no ledger, but may have what it was started with.
    if (found == REMOTE_NO_LEDGER && process->socket_count)
        process->opened_nothing = !procfs_has_io_uring(pid);
    else if (found != REMOTE_LEDGER)
        live_drop_last(&gathering->live);
}

void run_gather(struct report *report, const struct run_directory *directory) {
    struct gathering gathering = {report, directory, LIVE_EMPTY};
    descendants_each(add_live, &gathering);
    report_add_path(report, directory->path);
    live_ask_kernel(&gathering.live);
    for (uint32_t i = 0; i < gathering.live.count; i++) {
        const struct live_process *process = &gathering.live.processes[i];
        if (process->kernel_error < 0)
            note_blind(report, process->pid, strerror(-process->kernel_error));
        else
            live_observe(process, report, NULL);
    }
    live_free(&gathering.live);
}
