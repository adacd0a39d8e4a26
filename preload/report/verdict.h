// What is wrong with a socket that is still open. Shared with tools/.
//
// A pure function of a ledger record and the rules of the moment: no system call, no state.
#ifndef SOCKLEAK_REPORT_VERDICT_H
#define SOCKLEAK_REPORT_VERDICT_H

#include "ledger/ledger_format.h"
#include <stdbool.h>

enum verdict {
    VERDICT_NOT_JUDGED, // a datagram or listening socket, or a family that was not asked for
    VERDICT_EOF_IGNORED,
    VERDICT_FIN_UNREAD,
    VERDICT_DATA_UNREAD,
    VERDICT_RESET_UNCLOSED,
    VERDICT_SHUTDOWN_UNCLOSED,
    VERDICT_FIN_WAIT,
    VERDICT_NEVER_CONNECTED,
    VERDICT_OPEN,
    VERDICT_COUNT
};

enum verdict_group {
    GROUP_NONE,
    GROUP_CLOSE_WAIT,
    GROUP_DEAD,
    GROUP_OPEN
};

struct verdict_rules {
    bool at_end;           // of the process; else it runs on
    bool unix_sockets;     // judge AF_UNIX streams too
    bool inet_sockets;     // judge IPv4 and IPv6
    uint32_t grace_ms;     // see libsockleak(7): running, and
    uint32_t end_grace_ms; // at its end
};

// The verdict on a record, by its snapshot where one was taken and else ("last known") by what the
// program was told.
enum verdict verdict_of(const struct ledger_record *record, const struct verdict_rules *rules);

enum verdict_group verdict_group(enum verdict verdict);

// A leak: of the groups close-wait and dead.
bool verdict_is_leak(enum verdict verdict);

const char *verdict_name(enum verdict verdict);           // "eof-ignored"
const char *verdict_group_name(enum verdict_group group); // "close-wait"

// One plain clause for people: "the peer closed, the program read end of stream, and never closed".
const char *verdict_explanation(enum verdict verdict);

// The same of sockets like `sample`. Where its birth was not seen neither need its reads have been,
// nor its shutdown.
const char *verdict_explanation_of(enum verdict verdict, const struct ledger_record *sample);

// Is it dead, and how it died is not known?
static inline bool verdict_died_unseen(const struct ledger_record *record) {
    return record->birth_call == CALL_UNKNOWN && record->snapshot.state == STATE_CLOSE &&
           !(record->flags & RECORD_SHUT_WR) && !record->error &&
           !(record->snapshot.flags & SNAPSHOT_ERROR_PENDING);
}

// A half-close: the peer has sent its FIN, and this side still sends, or did less than `grace_ms`
// ago.
bool verdict_is_answering(const struct ledger_record *record, uint32_t grace_ms);

// True where a fork left the record to this process and it has done nothing with it since.
bool verdict_is_inherited(const struct ledger_record *record, uint32_t process);

#endif
