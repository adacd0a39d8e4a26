// What a birth, a dup, an end of stream and a close mean for the ledger. The hooks say what the
// program did; nothing here intercepts, prints or decides what is a leak.
//
// All functions: any thread, signal-safe apart from the first birth of a process (which loads the
// unwinder), no malloc, no lock, errno left alone. `caller` is the hook's CALLER. Where a function
// makes a system call, it says which.
//
// Order. A birth is told after the real call, a death before it: between a real close and our
// bookkeeping another thread may get the same number, and we would take its socket off the books.
#ifndef SOCKLEAK_TRACK_TRACKER_H
#define SOCKLEAK_TRACK_TRACKER_H

#include "base/owner.h"
#include "ledger/ledger.h"
#include "track/addresses.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

// Called once, at the first birth: the places for what only a process with sockets needs. The first
// one when the ledger has memory and before that is used, which may be a file that somebody cuts
// (signal handlers); the second one after it was made. Set before.
extern void (*tracker_before_ledger)(void);
extern void (*tracker_on_first_birth)(void);

// Called, where it is set, after births and ends of stream, and before closes: nothing is held, and
// the ledger says what the kernel says.
extern void (*tracker_on_activity)(void);

struct tracker_birth {
    enum ledger_call call;
    enum ledger_provenance provenance;
    int family, type, protocol; // family 0: not known
    const void *caller;
};

// False where there is nothing to follow: no socket was ever opened here, or this is a vfork child
// that runs in its parent's memory. The hooks of close and its kin test it first.
static inline bool tracker_active(void) {
    return LIKELY(ledger_exists()) && !owner_is_other_process();
}

// The process is about to get another root (chroot, pivot_root), in which neither the directory for
// ledgers nor libunwind need be found: what the first birth would make is made now.
void tracker_before_new_root(void);

// True where there is a ledger, and it is this process's own: a forked child takes it over first.
bool tracker_has_ledger(void);

// A new socket. One fstat, for the inode; none where that may wait, see track/unasked.h.
void tracker_born(int fd, const struct tracker_birth *birth);

// Before an accept, which may wait for long: see address_settle() in track/addresses.h. Rarely two
// system calls, and only where the ledger is a file.
void tracker_settle(void);
static inline void tracker_before_accept(void) {
    if (UNLIKELY(address_is_unsettled()))
        tracker_settle();
}

// A connection accepted from `listener`. One fstat, or none, as above.
void tracker_accepted(int listener, int fd, enum ledger_call call, const void *caller);

// An fd that came from elsewhere (SCM_RIGHTS, pidfd_getfd) and may be anything. One fstat.
void tracker_received(int fd, enum ledger_call call, const void *caller);

// connect(2) returned: `error` is 0, or the errno. Adopts a socket not seen born (one fstat).
void tracker_connected(int fd, const struct sockaddr *peer, socklen_t peer_bytes, int error,
                       const void *caller);

// A read of length > 0 returned 0. Decides whether that is an end of stream: one getsockopt for a
// TCP socket, none where that may wait, one poll for another or whose type is not known, one fstat
// for an fd not seen before. Where the ledger is a file, see track/addresses.h.
void tracker_read_nothing(int fd, enum ledger_call call, const void *caller);

// A read failed with `error`. One getsockopt where the type is not known, the first time that the
// error is one of the connection's.
void tracker_read_failed(int fd, enum ledger_call call, int error, const void *caller);

// Before and after shutdown(2). One poll, and one getsockopt where that is not enough, before the
// first that sends our FIN. `how` is SHUT_RD, SHUT_WR or SHUT_RDWR; the answer of the first goes
// into the second.
uint32_t tracker_shutdown_begin(int fd, int how, const void *caller);
void tracker_shutdown_done(uint32_t kept, int how, bool succeeded, const void *caller);

// Before a close. One getsockopt, where this is the last fd of a TCP connection whose end was not
// seen otherwise.
void tracker_closing(int fd, const void *caller);

// Before a close of all fds from `first` to `last`, both included.
void tracker_closing_range(unsigned first, unsigned last, const void *caller);

// Before a dup: keeps the socket of `fd` known until the call has returned. One fstat, where its
// inode was not asked for yet. Pass the answer to
// tracker_dup_done() (0: no socket of ours).
uint32_t tracker_dup_begin(int fd);

// After a dup: `fd` is the new number, negative where it failed.
void tracker_dup_done(uint32_t kept, int fd);

// Before a dup2 or dup3 that replaces `fd`, which fails more often than a close: takes the socket
// off the table, and tracker_replace_done() says whether it is gone, or puts it back.
uint32_t tracker_replace_begin(int fd, const void *caller);
void tracker_replace_done(uint32_t kept, int fd, bool replaced);

// A call is about to make a process that has our descriptors, too, if only until it executes
// another program: before vfork, posix_spawn, and whatever shares our memory.
static inline void tracker_note_fork(void) {
    if (tracker_active())
        ledger_note_fork();
}

// For pthread_atfork, in the thread that forks: see ledger_prepare_fork(). In a process with
// threads, the first time: see unasked_end().
void tracker_before_fork(void);

// The same for what forks without its atfork handlers.
void tracker_before_raw_fork(void);

// The same for clone(2), whose flags these are.
void tracker_before_clone(unsigned long flags);

// In a forked child, before anything else touches the ledger.
void tracker_continue_in_child(void);

#endif
