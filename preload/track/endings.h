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
// Up to three system calls (TCP_INFO, unread data, SO_LINGER), for a TCP connection of which it is
// not known otherwise, and of many closes for some; none where another fd has the socket, too.
// `now_ns` is of clock_now_ns().
void ending_note(uint32_t number, int fd, const void *caller, uint64_t now_ns);

// Before a shutdown that will send our FIN: has the peer's come? One poll, and one getsockopt
// where that is not enough, once a socket; of many accepted ones for some, and the others are taken
// to be like them (RECORD_FIN_ASSUMED). `may_be_believed`: by all that is known of it nobody shut
// down its reading, so that for poll too only the peer has ended the stream.
void ending_note_fin_order(struct ledger_record *record, int fd, bool may_be_believed);

// The shutdown failed: no FIN was sent.
void ending_forget_fin_order(struct ledger_record *record);

// Behind that shutdown, at `now_ns` of clock_now_ns(): when the peer's FIN had come, if nothing
// better is known.
void ending_bound_fin(struct ledger_record *record, uint64_t now_ns);

// What the kernel says when a read has returned 0.
struct ending_eof {
    bool ended;      // it is an end of stream; as far as TCP_INFO tells
    bool is_bound;   // the FIN came at fin_ns or before: what came last may have been the ACK
                     // of data that we have sent since
    uint64_t fin_ns; // 0: not known
};

// Is it a stream socket? One getsockopt where that was not told at its birth.
bool ending_is_stream(const struct ledger_record *record, int fd);

// Has the stream of this fd, a stream socket's, ended? One getsockopt; where it has no TCP_INFO
// also a poll.
bool ending_is_eof(const struct ledger_record *record, int fd, struct ending_eof *told);

// Writes down when the FIN came; or that the end of stream was none.
void ending_put_fin(struct ledger_record *record, const struct ending_eof *told);
void ending_forget_eof(struct ledger_record *record);

#endif
