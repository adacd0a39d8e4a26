#include "run_notices.h"
#include "base/notice.h"
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
             notice->pid, (int)strnlen(notice->exe, sizeof notice->exe), notice->exe, notice->leaks,
             notice->leaks == 1 ? "" : "s");
    report_note_text(report, note);
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
