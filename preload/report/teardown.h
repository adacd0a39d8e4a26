// How a connection came to an end, step by step, and which step never happened. Shared with tools/,
// which draw it.
//
// Of the four steps (RFC 9293, 3.6: each side sends a FIN, and each FIN is acknowledged) those are
// listed that happened, in their order, with what the program was told between them; and last the
// one that is missing. A pure function of a record: no system call, no state, no malloc.
#ifndef SOCKLEAK_REPORT_TEARDOWN_H
#define SOCKLEAK_REPORT_TEARDOWN_H

#include "ledger/ledger_format.h"
#include <stdbool.h>

enum teardown_step {
    TEARDOWN_PEER_FIN,   // arrived
    TEARDOWN_OUR_ACK,    // of it, by the kernel, at once
    TEARDOWN_EOF_READ,   // a read returned 0: `call`, `stack`, `thread`
    TEARDOWN_OUR_FIN,    // sent: by shutdown (`stack`); by close where it is missing
    TEARDOWN_PEER_ACK,   // of ours
    TEARDOWN_RESET,      // the connection is gone without the other steps: RST, or a timeout
    TEARDOWN_ERROR_READ, // a call returned `error`: `call`, `stack`
    TEARDOWN_OUR_CLOSE,  // close: never `happened`, or there would be no record
    TEARDOWN_STEPS
};

enum teardown_side {
    TEARDOWN_FROM_PEER,
    TEARDOWN_FROM_US,
    TEARDOWN_IN_PROGRAM
};

enum teardown_time {
    TEARDOWN_TIME_UNKNOWN,
    TEARDOWN_TIME_EXACT,    // to the kernel's tick
    TEARDOWN_TIME_NOT_AFTER // `ns` is the latest that it can have been
};

struct teardown_event {
    enum teardown_step step;
    enum teardown_side side;
    bool happened; // false: it never did; then all below is zero
    enum teardown_time time;
    uint64_t ns;   // CLOCK_MONOTONIC
    uint8_t state; // enum ledger_tcp_state that the socket is in from here on; STATE_UNKNOWN: as it
                   // was
    uint8_t call;  // enum ledger_call
    uint16_t error;
    uint32_t stack;  // of the call
    uint32_t thread; // tid
};

enum {
    TEARDOWN_EVENTS_MAX = 10
};

// Who sent the first FIN.
enum teardown_first {
    TEARDOWN_FIRST_UNKNOWN,
    TEARDOWN_FIRST_PEER,
    TEARDOWN_FIRST_US,
    TEARDOWN_FIRST_NOBODY // none was sent so far
};

struct teardown {
    struct teardown_event events[TEARDOWN_EVENTS_MAX];
    unsigned count; // 0 for what is no TCP connection, or has not begun to end
    enum teardown_first first;
};

// Of an open socket, by its snapshot where one was taken, and what the program was told and did.
void teardown_of(const struct ledger_record *record, struct teardown *out);

// Of a socket whose peer has sent its FIN: it may have come earlier than its age says, as where
// this side has sent data since.
bool teardown_fin_is_bound(const struct ledger_record *record);

const char *teardown_step_name(enum teardown_step step); // "peer-fin"
const char *teardown_time_name(enum teardown_time time); // "exact"

#endif
