// Why a socket was not closed, where there is evidence for it. Shared with tools/.
//
// A pure function of a judged record and what stands beside it: no system call, no state, no
// malloc. Where the evidence is not there the cause is CAUSE_UNKNOWN: a guess would send somebody
// to the wrong line.
#ifndef SOCKLEAK_REPORT_CAUSE_H
#define SOCKLEAK_REPORT_CAUSE_H

#include "base/format.h"
#include "ledger/ledger_format.h"
#include <stdbool.h>

// What stands beside the record. Zero and NULL: not known.
struct cause_facts {
    uint32_t process;                      // the header's: tells which records are inherited
    uint32_t grace_ms;                     // of the verdict: what is younger is not called stuck
    const struct ledger_record *waited_on; // the one that snapshot.thread_fd_record names
    const struct ledger_stack *site;       // the birth stack's counters
    uint64_t closed_by_children; // copies, left to forked children, of sockets of the birth stack
    bool is_left_by_exec;        // an earlier image of the process opened it, without FD_CLOEXEC
};

// The cause, by the snapshot's state, verdict, thread and properties, and what the program was
// told.
enum ledger_cause cause_of(const struct ledger_record *record, const struct cause_facts *facts);

const char *cause_name(enum ledger_cause cause); // "idle-pool"

// One or two plain sentences, without the full stop at the end: the evidence, and what to look at.
// Nothing for CAUSE_UNKNOWN. `record` is any of the finding's.
void cause_sentence(struct text_buffer *out, enum ledger_cause cause,
                    const struct ledger_record *record, const struct cause_facts *facts);

// The name of one property (enum ledger_properties): "no-read-timeout"; NULL for another number.
const char *cause_property_name(unsigned property);

// True where the owner's thread sits in a call that ends only when somebody else acts, on `fd` or
// for a child process; not in one that waits for whatever comes next (accept, poll, a futex).
bool cause_is_stuck_call(int32_t system_call);

#endif
