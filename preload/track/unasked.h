// What the kernel knows of a socket, and a report needs, and most sockets are closed before anybody
// does: the inode, from birth on, and whether an end of stream is one. It is asked for a little
// later, so that a socket that is opened, used and closed costs no system call of ours.
//
// - The inode is asked when a report looks, or when as many sockets as UNASKED_BIRTHS were born
//   since. Until then a record explains its fd by number alone: a number that is closed and given
//   away again behind our back in that time, and both out of our sight, has the first one's origin.
// - An end of stream is written down when it is told, with RECORD_EOF_UNASKED; and taken back where
//   the kernel, asked when a report looks or when a read returns 0 again, says otherwise. Of a
//   socket that is closed before that, it is believed: its call site counts a close after the peer.
//
// Both only behind a process's first UNASKED_AFTER births, and for as long as nothing has gone past
// us: a program that closes and opens behind our back (io_uring, system calls of its own) shows it
// by then, and is asked at once from then on. So is a program with threads that forks, since
// another thread may be at work on a number while the kernel copies the one and then the other. And
// only where the ledger is private memory: of a killed process a file is all that is left, and
// nobody can ask then. Any thread, signal-safe, errno left alone, no lock; the ledger is there.
#ifndef SOCKLEAK_TRACK_UNASKED_H
#define SOCKLEAK_TRACK_UNASKED_H

#include "ledger/ledger.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    UNASKED_AFTER = 512,
    UNASKED_BIRTHS = 64
};

// Nothing waits any more: something went past us (a socket was used that was not seen born), or see
// unasked_end().
extern bool unasked_never;

// May what is known of a socket wait?
static inline bool unasked_may_wait(void) {
    const struct ledger_counters *counters = &ledger.header->counters;
    return LIKELY(__atomic_load_n(&counters->born, __ATOMIC_RELAXED) >= UNASKED_AFTER) &&
           LIKELY(__atomic_load_n(&counters->closed_unseen, __ATOMIC_RELAXED) == 0) &&
           LIKELY(__atomic_load_n(&counters->found, __ATOMIC_RELAXED) == 0) &&
           LIKELY(!__atomic_load_n(&unasked_never, __ATOMIC_RELAXED)) && LIKELY(!ledger_is_file());
}

// The inode of an fd, where it is a socket; else 0. One fstat.
uint64_t unasked_socket_inode(int fd);

// A record with LEDGER_INODE_UNASKED stands in the table for `fd`. The one that was noted
// UNASKED_BIRTHS earlier is asked, where its socket is still open: one fstat.
void unasked_note_birth(uint32_t number, int fd);

// The inode of `number`, which stands in the table for `fd`; asked where it was not: one fstat. A
// record whose fd is no socket any more goes. LEDGER_INODE_UNASKED: it is not there any more, or
// the kernel did not answer.
uint64_t unasked_inode(uint32_t number, int fd);

// From here on nothing waits, and what did is asked: one fstat for each, the first time.
void unasked_end(void);

// Asks whether the end of stream of `record`, held, whose fd this is, was one. Does nothing where
// that is known. One getsockopt.
void unasked_eof_now(struct ledger_record *record, int fd);
static inline void unasked_eof(struct ledger_record *record, int fd) {
    if (UNLIKELY(ledger_flags(record) & RECORD_EOF_UNASKED))
        unasked_eof_now(record, fd);
}

#endif
