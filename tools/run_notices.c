#include "run_notices.h"
#include "base/format.h"
#include "base/notice.h"
#include "terminal.h"
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

void run_notices_begin(const struct run_directory *directory) {
    // As the directory: root's processes may become other users', who may write and not read.
    msgget(notice_key(directory->path), IPC_CREAT | IPC_EXCL | (geteuid() == 0 ? 0622 : 0600));
}

static void add_note(struct report *report, const struct notice *notice) {
    char note[512];
    snprintf(note, sizeof note,
             "process %u %.*s could leave no ledger and leaked %u socket%s: its own report on "
             "stderr says which",
             notice->pid, (int)strnlen(notice->text, sizeof notice->text), notice->text,
             notice->leaks, notice->leaks == 1 ? "" : "s");
    report_note_text(report, note);
}

// Whoever may send a notice could send a terminal's escape sequences, too.
static void tell_line(const struct notice *notice) {
    char line[sizeof notice->text], memory[sizeof line + 1];
    struct text_buffer out = text_buffer(memory, sizeof memory);
    snprintf(line, sizeof line, "%.*s", (int)strnlen(notice->text, sizeof notice->text),
             notice->text);
    text_foreign(&out, line);
    terminal_write_line(stderr, terminal_width(stderr), memory, out.len_bytes);
}

void run_notices_tell(const struct run_directory *directory, bool is_told) {
    int queue = msgget(notice_key(directory->path), 0);
    struct notice notice;
    while (queue >= 0 &&
           msgrcv(queue, &notice, NOTICE_BYTES, NOTICE_EXHAUSTED, IPC_NOWAIT) == NOTICE_BYTES)
        if (is_told)
            tell_line(&notice);
}

uint64_t run_notices_gather(struct report *report, const struct run_directory *directory) {
    int queue = msgget(notice_key(directory->path), 0);
    struct notice notice;
    uint64_t leaks = 0;
    while (queue >= 0 &&
           msgrcv(queue, &notice, NOTICE_BYTES, NOTICE_LEDGER_LOST, IPC_NOWAIT) == NOTICE_BYTES) {
        add_note(report, &notice);
        leaks += notice.leaks;
    }
    return leaks;
}

void run_notices_end(const char *ledger_dir) {
    int queue = msgget(notice_key(ledger_dir), 0);
    if (queue >= 0)
        msgctl(queue, IPC_RMID, NULL);
}
