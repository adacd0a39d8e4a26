// The addresses of sockets, as the ledger keeps them. Any thread, signal-safe, errno left alone.
#ifndef SOCKLEAK_TRACK_ADDRESSES_H
#define SOCKLEAK_TRACK_ADDRESSES_H

#include "base/compiler.h"
#include "ledger/ledger.h"
#include <sys/socket.h>

// An address of the program's, which a call has accepted; ADDRESS_NONE for another family.
void address_copy(struct ledger_address *out, const struct sockaddr *address, socklen_t bytes);

// Puts one in a record that other threads may hold, who may put theirs at the same time (two
// connects of one socket): then it may be of both.
void address_put(struct ledger_address *out, const struct ledger_address *from);

// Asks the kernel for both addresses of `record`'s socket: one getsockname, one getsockopt. What it
// does not say stays as it is.
void address_ask(struct ledger_record *record, int fd);

// A killed process can tell no address any more, so where the ledger is a file they are written
// down while it lives. Most sockets are closed right after their end, and nobody will ask for
// theirs: so they are asked for when the process goes on, with the next birth, accept, connect or
// end, and the socket is still there. Only of the one that was last told its end before the process
// is killed they may be missing.
//
// address_note_end() is called when the socket of `fd` was told its end, its record held;
// address_settle() when the process goes on. Both only where there is a ledger, and it is this
// process's: a forked child may have lost it, and still have what was unsettled.
void address_note_end_now(uint32_t number, int fd);
static inline void address_note_end(uint32_t number, int fd) {
    if (UNLIKELY(ledger_is_file()))
        address_note_end_now(number, fd);
}

extern uint64_t address_unsettled;
static inline bool address_is_unsettled(void) {
    return __atomic_load_n(&address_unsettled, __ATOMIC_RELAXED) != 0;
}

void address_settle_now(void);
static inline void address_settle(void) {
    if (UNLIKELY(address_is_unsettled()))
        address_settle_now();
}

#endif
