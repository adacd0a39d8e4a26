// The kernel's view of every open socket of this process, written into the ledger's records.
//
// The kernel says what is open; the ledger only explains it, and only where the inode is still the
// one recorded at birth. A socket that no record explains gets a new one, with its origin unknown.
#ifndef SOCKLEAK_REPORT_SNAPSHOT_H
#define SOCKLEAK_REPORT_SNAPSHOT_H

#include "ledger/ledger.h"
#include "report/scratch.h"
#include <sys/types.h>

struct snapshot_fd {
    uint64_t inode;
    int32_t fd;
    uint32_t record; // held until snapshot_release(); 0: no room for one
};

struct snapshot {
    struct snapshot_fd *fds; // every fd that is a socket, in no order
    uint32_t fd_count;
    uint32_t *sockets; // the records, each once
    uint32_t socket_count;
    uint32_t unrecorded; // sockets for which there was no record to be had
    uint32_t unanswered; // sockets of which the kernel did not tell the state
    bool proc_missing;   // /proc/self/fd could not be read: fds were tried one by one
    int no_descriptor;   // the same, and why: as apart_run() says; 0 where that was not why
    bool incomplete;     // memory was at an end, the list's or the kernel's
};

// Looks at all sockets. `ended` is ENDED_RUNNING in a live report. Opens /proc/self/fd for as long
// as it takes; never touches a socket's data, options or errors. Needs a ledger. Returns 0 or
// -errno.
int snapshot_take(struct snapshot *out, struct scratch *scratch, enum ledger_ended ended);

void snapshot_release(struct snapshot *snapshot);

// The process `pid`, of which this one is the child, is about to end whatever it still has open.
// Async-signal-safe.
void snapshot_parent_ends(pid_t pid);

#endif
