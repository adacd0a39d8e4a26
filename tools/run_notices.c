#include "run_notices.h"
#include "base/format.h"
#include "base/notice.h"
#include "errors.h"
#include "procfs.h"
#include "terminal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

enum {
    TAKEN_MAX = 1000,       // at a time; who sends notices is not trusted
    WITHOUT_FILE_MAX = 4096 // that are remembered
};

// A process whose ledger is in private memory.
struct without_file {
    uint32_t pid;
    uint32_t leaks; // as it said when it ended
    uint64_t start_time_ticks;
    bool has_ended;
    char exe[sizeof((struct notice *)0)->text + 1];
};

struct run_notices {
    struct without_file *list;
    uint32_t count;
    bool any;         // has come
    uint32_t unnamed; // that there was no room for
    uint64_t leaks;   // of all
};

void run_notices_begin(const struct run_directory *directory) {
    // As the directory: root's processes may become other users', who may write and not read.
    msgget(notice_key(directory->path), IPC_CREAT | IPC_EXCL | (geteuid() == 0 ? 0622 : 0600));
}

void run_notices_end(const char *ledger_dir) {
    int queue = msgget(notice_key(ledger_dir), 0);
    if (queue >= 0)
        msgctl(queue, IPC_RMID, NULL);
}

struct run_notices *run_notices_new(void) {
    return must_allocate(1, sizeof(struct run_notices));
}

void run_notices_free(struct run_notices *notices) {
    if (notices)
        free(notices->list);
    free(notices);
}

// --- those without a file ------------------------------------------------------------------------

static struct without_file *find_running(const struct run_notices *notices,
                                         const struct notice *notice) {
    for (uint32_t i = 0; i < notices->count; i++) {
        struct without_file *process = &notices->list[i];
        if (process->pid == notice->pid && process->start_time_ticks == notice->start_time_ticks &&
            !process->has_ended)
            return process;
    }
    return NULL;
}

// NULL: no room.
static struct without_file *add(struct run_notices *notices, const struct notice *notice) {
    if (notices->count == WITHOUT_FILE_MAX) {
        notices->unnamed++;
        return NULL;
    }
    notices->list = must_reallocate(notices->list, notices->count + 1, sizeof *notices->list);
    struct without_file *added = &notices->list[notices->count++];
    *added =
        (struct without_file){.pid = notice->pid, .start_time_ticks = notice->start_time_ticks};
    snprintf(added->exe, sizeof added->exe, "%.*s", (int)strnlen(notice->text, sizeof notice->text),
             notice->text);
    return added;
}

static void note_begin(struct run_notices *notices, const struct notice *notice) {
    if (!find_running(notices, notice)) // else it has exec'd, and was not seen to
        add(notices, notice);
}

static void note_end(struct run_notices *notices, const struct notice *notice) {
    struct without_file *process = find_running(notices, notice);
    notices->leaks += notice->leaks;
    if (!process && notice->leaks)
        process = add(notices, notice);
    if (!process)
        return;
    process->has_ended = true;
    process->leaks = notice->leaks;
    if (notice->leaks == 0) { // nothing to be said of it
        size_t behind = (size_t)(&notices->list[--notices->count] - process);
        memmove(process, process + 1, behind * sizeof *process);
    }
}

static void report_one(struct report *report, const struct without_file *process) {
    char note[512];
    if (process->has_ended)
        snprintf(note, sizeof note,
                 "process %u %s could leave no ledger and leaked %u socket%s: its own report on "
                 "stderr says which",
                 process->pid, process->exe, process->leaks, process->leaks == 1 ? "" : "s");
    else if (!procfs_runs((pid_t)process->pid, process->start_time_ticks))
        snprintf(note, sizeof note,
                 "process %u %s could leave no ledger and made no last report of its own: what it "
                 "leaked is not known",
                 process->pid, process->exe);
    else
        return; // looked at from outside
    report_note_text(report, note);
}

// --- taking them ---------------------------------------------------------------------------------

// Whoever may send a notice could send a terminal's escape sequences, too.
static void tell_line(const struct notice *notice) {
    char line[sizeof notice->text], memory[sizeof line + 1];
    struct text_buffer out = text_buffer(memory, sizeof memory);
    snprintf(line, sizeof line, "%.*s", (int)strnlen(notice->text, sizeof notice->text),
             notice->text);
    text_foreign(&out, line);
    terminal_write_line(stderr, terminal_width(stderr), memory, out.len_bytes);
}

// In the order in which they were sent: an end is that of a process that was told of before.
void run_notices_take(struct run_notices *notices, const struct run_directory *directory,
                      bool is_told) {
    int queue = msgget(notice_key(directory->path), 0);
    struct notice notice;
    for (int taken = 0; queue >= 0 && taken < TAKEN_MAX &&
                        msgrcv(queue, &notice, NOTICE_BYTES, 0, IPC_NOWAIT) == NOTICE_BYTES;
         taken++) {
        notices->any |= notice.type != NOTICE_EXHAUSTED;
        switch (notice.type) {
        case NOTICE_EXHAUSTED:
            if (is_told)
                tell_line(&notice);
            break;
        case NOTICE_LEDGER_PRIVATE:
            note_begin(notices, &notice);
            break;
        case NOTICE_LEDGER_LOST:
            note_end(notices, &notice);
            break;
        default: // of a later library
            break;
        }
    }
}

bool run_notices_any(const struct run_notices *notices) {
    return notices->any;
}

uint64_t run_notices_gather(struct run_notices *notices, struct report *report,
                            const struct run_directory *directory) {
    char note[96];
    run_notices_take(notices, directory, false);
    for (uint32_t i = 0; i < notices->count; i++)
        report_one(report, &notices->list[i]);
    if (notices->unnamed) {
        snprintf(note, sizeof note, "and %u more processes could leave no ledger",
                 notices->unnamed);
        report_note_text(report, note);
    }
    return notices->leaks;
}
