// Something has run out, or a threshold of the user's own is passed: the moment at which the
// evidence is complete, and a report is made.
//
// Once per kind in exhaustion_interval seconds; each time is counted in the ledger. The call that
// failed is not touched: its result and errno are what they were. Any thread, signal-safe; nothing
// happens in a process without sockets, in a vfork child and in a sandbox.
#ifndef SOCKLEAK_REPORT_EXHAUSTION_H
#define SOCKLEAK_REPORT_EXHAUSTION_H

#include "base/compiler.h"
#include "base/format.h"
#include "ledger/ledger_format.h"
#include <errno.h>
#include <sys/socket.h>

// A call that makes a descriptor, or connects one to `peer` (else NULL), has failed with errno.
void exhaustion_failed(int error, const struct sockaddr *peer, socklen_t peer_bytes);

static inline void exhaustion_after(long result, const struct sockaddr *peer, socklen_t bytes) {
    if (UNLIKELY(result < 0) && (errno == EMFILE || errno == ENFILE || errno == EADDRNOTAVAIL ||
                                 errno == ENOBUFS || errno == ENOMEM))
        exhaustion_failed(errno, peer, bytes);
}

// Called at the first birth, when the options are known: looks at max_open, max_close_wait and
// leak_after from now on, as sockets are opened, closed and read to their end.
void exhaustion_begin(void);

// What a report made at such a moment says first.
struct exhaustion {
    enum ledger_exhaustion kind;
    int error;                  // 0 for the thresholds
    uint64_t limit;             // descriptors, ports, or the option's value; 0 not known
    uint64_t sockets;           // descriptors of this process that are sockets
    uint64_t close_wait;        // and are in CLOSE_WAIT
    uint64_t time_wait;         // sockets of this machine in TIME_WAIT
    uint64_t of_stack;          // sockets in CLOSE_WAIT (or all, or active closes) of `stack`
    uint32_t stack;             // the birth stack with most of them
    struct ledger_address peer; // where no port was left
};

// "too many open files (EMFILE): 987 of 1024 descriptors are sockets in CLOSE_WAIT, 961 of them
// from this stack". Pure.
void exhaustion_sentence(struct text_buffer *out, const struct exhaustion *facts);

// The headline's words: "at EMFILE in".
const char *exhaustion_when(const struct exhaustion *exhaustion);

// Fills in what a snapshot's records tell: all but kind, error, limit of an option, and peer.
// `sockets` are record numbers; `tally` has room for a number per stack of the ledger, zeroed, or
// is NULL.
void exhaustion_count(struct exhaustion *out, const uint32_t *sockets, uint32_t count,
                      uint32_t *tally);

#endif
