// What the threads are doing whose sockets are left open: the evidence for a cause.
#ifndef SOCKLEAK_REPORT_THREADS_H
#define SOCKLEAK_REPORT_THREADS_H

#include "ledger/ledger.h"
#include "report/scratch.h"
#include "report/snapshot.h"

// Fills in, for each leak of a judged snapshot, the snapshot.thread* of its record and what
// was seen of its reader since: of the thread that read end of stream, or else of the one that
// opened the socket. Each thread is asked once, of /proc/self/task/TID/syscall, at most
// THREADS_ASKED_MAX of them. Where memory or a descriptor is missing nothing is known. Signal-safe.
void threads_look_at(const struct snapshot *snapshot, struct scratch *scratch);

enum {
    THREADS_ASKED_MAX = 1024
};

#endif
