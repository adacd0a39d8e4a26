// What became of the sockets of each birth stack: the counters in struct ledger_stack, and the
// destinations of those that this program connected. Lock-free, signal-safe; needs a ledger.
#ifndef SOCKLEAK_LEDGER_SITES_H
#define SOCKLEAK_LEDGER_SITES_H

#include "ledger/ledger.h"

// A socket was born: its record is complete.
void site_count_opened(const struct ledger_record *record);

// The last reference to a record is gone, `by_close` or behind our back. Before it is freed.
// `now_ns` is of clock_now_ns(); 0 where it was not read.
void site_count_ended(const struct ledger_record *record, bool by_close, uint64_t now_ns);

// True where a fork left the socket to this process: it was not opened here.
bool site_is_inherited(const struct ledger_record *record);

// Sockets that are open, and whose FIN order was taken from another's of their site
// (track/endings.h, RECORD_FIN_ASSUMED): one more, one less before it ends, and whether a site has
// so many that no more are to be taken on trust. site_count_ended() counts them off.
void site_count_assumed(const struct ledger_record *record);
void site_forget_assumed(const struct ledger_record *record);
bool site_has_many_assumed(const struct ledger_record *record);

// True at most once a second of `now_ns` for each birth stack: time to capture who closes its
// sockets first.
bool site_wants_close_stack(uint32_t birth_stack, uint64_t now_ns);

// In a forked child: all counters start from zero, since they tell what this process did. Touches
// only what is not zero: the rest of the memory stays shared with the parent.
void site_continue_in_child(void);

// The bucket of ledger_stack.lifetimes for a lifetime.
unsigned site_lifetime_bucket(uint64_t ms);

#endif
