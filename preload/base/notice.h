// Notices to `sockleak run`: from where no file can be made (below another root directory, as a
// user who may not write there, on a full disk), and of what should be known at once. They go
// through a System V message queue (sysvipc(7)), which needs no descriptor, no path and no memory
// of ours. Shared with tools/.
//
// Best effort: a queue that is full, not there, or in another IPC namespace takes nothing.
#ifndef SOCKLEAK_BASE_NOTICE_H
#define SOCKLEAK_BASE_NOTICE_H

#include <stdint.h>

enum notice_kind {
    NOTICE_LEDGER_LOST = 1, // the ledger of program `text` was private memory, and `leaks` sockets
                            // were leaked when it ended, which may be none
    NOTICE_EXHAUSTED = 2,   // `text` is a line of what a report at that moment says first
    NOTICE_LEDGER_PRIVATE = 3 // program `text` has its ledger in private memory from now on
};

// A message as msgsnd(2) has it. Whoever reads one trusts none of it.
struct notice {
    long type; // enum notice_kind
    uint32_t pid;
    uint32_t leaks;
    uint64_t start_time_ticks; // of the process: pids are used again, and mean others elsewhere
    char text[256];            // NUL-terminated
};

enum {
    NOTICE_BYTES = sizeof(struct notice) - sizeof(long)
};

// The queue of the run with this ledger directory.
int notice_key(const char *ledger_dir);

// Raw system calls: signal-safe. Never waits.
void notice_send(const char *ledger_dir, const struct notice *notice);

#endif
