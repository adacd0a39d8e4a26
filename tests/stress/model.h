// What this process knows of its sockets, from what it did itself: which place opened each, and
// what it was told of each. Nothing in here comes from the library. Which numbers are open, and
// which sockets they are, is asked of the kernel after each operation (fstat, by a raw system
// call).
//
// All functions but those that only ask the kernel want the lock held.
#ifndef SOCKLEAK_TESTS_STRESS_MODEL_H
#define SOCKLEAK_TESTS_STRESS_MODEL_H

#include "sites.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    MODEL_FDS = 1024,
    MODEL_SOCKETS = 8192, // a power of two
    MODEL_ORIGINS = 6,
    MODEL_THREADS = 32, // of a process, from 1
    MODEL_FORMER = 8,
};

struct origin {
    uint8_t site; // enum site_id
    uint8_t provenance;
};

struct known {
    uint64_t inode;
    uint16_t fds;         // how many of this process's
    uint8_t origin_count; // 0: nobody saw it come. More than one: received while it was here
    struct origin origins[MODEL_ORIGINS];
    uint8_t domain, type; // from the kernel, at birth
    bool listening;
    bool connected;        // accept made it, or connect returned 0
    bool connecting;       // connect returned EINPROGRESS
    bool refused;          // the attempt failed, and the program was told
    bool shut_rd, shut_wr; // by this process
    bool told_error;       // by a read, of the connection's death
    bool told_reset;       // ECONNRESET or EPIPE
    bool sent_error;       // by a send, of which the library is not told
    bool end_of_stream;
    uint64_t end_sites; // 1 << site: the first read of it; side by side, each that may be
    bool is_parents;    // a fork left it here, and nothing was done with it since
    // Two threads used the number, or a call that the library cannot see changed it: what was told,
    // or whence it came, cannot be known.
    bool told_unclear, origin_unclear;
};

// A socket that was seen at a number, and when.
struct former {
    uint64_t inode, moment;
};

struct model {
    struct known sockets[MODEL_SOCKETS]; // open addressing, by inode
    uint64_t fds[MODEL_FDS];             // inode, 0 for what is no socket
    uint8_t busy[MODEL_FDS];             // the thread that works on it, 0 for none
    uint8_t aimed[MODEL_FDS];            // threads that close or replace it without owning it
    bool unseen[MODEL_FDS];              // changed by a call that the library did not see
    uint64_t stale[MODEL_FDS];           // and whose record the library has there
    uint64_t unseen_inode[MODEL_FDS];    // and what is there since
    uint64_t given[MODEL_FDS];           // the inode with which a call has returned the number
    unsigned unseen_count;               // how often, by this process
    bool exact;                          // one thread at a time: all is known
    bool parent_moves;                   // its threads go on, while this process is looked at
    // In one order: when each thread's operation began, 0 for none; and when the model last saw a
    // number change, or closed by who did not own it. An operation that was under way at that time
    // may have the number, too, and tell of it later.
    uint64_t moment, began[MODEL_THREADS], changed[MODEL_FDS];
    uint64_t disturbed[MODEL_FDS]; // and when the last one that did not own the number had done so
    struct former former[MODEL_FDS][MODEL_FORMER]; // the last ones at each number
    uint64_t begun_ns;                             // when a fork made this process
    unsigned added;                                // since the closed ones were forgotten
};

extern struct model model;

void model_lock(void);
void model_unlock(void);

// The socket's inode, from the kernel; 0 for a closed fd or another file.
uint64_t model_inode(int fd);

// NULL where nothing is known of it.
struct known *model_find(uint64_t inode);

// Asks the kernel what fd is now, and counts references. Returns the socket, or NULL.
struct known *model_refresh(int fd);

// Has a call returned the number to the program, for what is there now? Until then the library may
// not have been told: its hook is behind the kernel's call. Another thread can use the number that
// early only where it takes it for a socket that was closed meanwhile.
bool model_is_given(int fd);

// A call returned the number. What it returned may be closed already, by a stray close, and the
// number another call's by now: where one was aimed at it since the thread's operation began, that
// tells nothing. `own_aims`: how many of those are the thread's own. Returns the socket.
struct known *model_give(int fd, unsigned thread, unsigned own_aims);

// A site returned fd, in the thread's operation. Where its socket was closed by who did not own it,
// the library may have found another one at the number, any that was there since the operation
// began, and cannot know either that it is not the site's. Returns NULL where it is no socket, or
// not there any more.
struct known *model_born(int fd, enum site_id site, enum ledger_provenance provenance,
                         unsigned thread);

// A thread's operation begins, or has ended.
void model_operation(unsigned thread, bool begins);

// A thread is about to close or replace the numbers from first to last, or has done so.
void model_aim(int first, int last);
void model_aimed(int first, int last);

// An fd came to be, or went, by a call that the library cannot see.
void model_unseen(int fd);

// The same where the call opened a socket: nobody saw it come, whoever claims it.
void model_born_unseen(int fd);

// The library was told of the use of a socket that it may not know.
void model_used(int fd, struct known *known);

// After a report: what the library had not seen it has found now. Forgets what is closed.
void model_reported(void);

// A fork, with the lock held, has made a copy of all this. Unlocks.
void model_forked(void);

// Makes room. False where it may not: threads run side by side, and a report must come first.
bool model_tidy(void);

void model_dont_block(int fd); // O_NONBLOCK

uint64_t model_now_ns(void); // CLOCK_MONOTONIC

// The kernel's word on one socket.
struct look {
    int domain, type;
    bool listening;
    int state;        // TCP_INFO's, 0 where there is none
    unsigned in, out; // bytes queued
    int hangup;       // of poll: POLLRDHUP, POLLHUP, POLLERR
    bool moved_data;  // TCP_INFO's counters are not all 0: it was connected once
    uint32_t ports;   // both: another connection of the same socket has others
};

struct look model_look(int fd);
bool look_is_same(const struct look *a, const struct look *b);

#endif
