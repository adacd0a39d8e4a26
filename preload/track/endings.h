// Who ended a connection first: asked of the kernel while the socket is still there, and noted in
// its record for ledger/sites.h to count.
//
// The side that sends its FIN first keeps TIME_WAIT (RFC 9293, 3.6). All functions are called with
// the record held, any thread, signal-safe, errno left alone.
#ifndef SOCKLEAK_TRACK_ENDINGS_H
#define SOCKLEAK_TRACK_ENDINGS_H

#include "ledger/ledger.h"
#include <stdbool.h>

// Before the close of `fd`, which is off the table already, and whose reference the caller holds.
// One getsockopt, for a TCP connection of which it is not known otherwise; none where another fd
// has the socket, too.
void ending_note(uint32_t number, int fd, const void *caller);

// Before a shutdown that will send our FIN: has the peer's come? One getsockopt at most, once a
// socket.
void ending_note_fin_order(struct ledger_record *record, int fd);

// What TCP_INFO says when a read has returned 0.
struct ending_eof {
    bool ended;      // it is an end of stream
    bool is_bound;   // the FIN came at fin_ns or before: what came last may have been the ACK
                     // of data that we have sent since
    uint64_t fin_ns; // 0: not known
};

// Returns false where the socket has no TCP_INFO.
bool ending_ask_eof(int fd, struct ending_eof *out);

#endif
