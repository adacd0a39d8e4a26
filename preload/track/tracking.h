// What the four files behind tracker.h share: tracker.c (the process and its forks), births.c,
// told.c (ends of stream, errors and shutdowns) and numbers.c (which socket an fd is: closes and
// copies).
#ifndef SOCKLEAK_TRACK_TRACKING_H
#define SOCKLEAK_TRACK_TRACKING_H

#include "base/sys.h"
#include "track/tracker.h"
#include "track/unasked.h"

bool tracking_make_ledger(void);
bool tracking_go_on_in_child(void);

// Where tracker_active(): false where a forked child could not have a ledger of its own.
static inline bool tracking_go_on(void) {
    // _Fork or clone: no atfork handler ran
    return LIKELY(!owner_was_forked()) || tracking_go_on_in_child();
}

// Makes the ledger where there is none. False: there is none, or it is not ours.
static inline bool tracking_begin(void) {
    return !UNLIKELY(owner_is_other_process()) &&
           (LIKELY(ledger_exists()) || tracking_make_ledger()) && tracking_go_on();
}

static inline void tell_activity(void) {
    if (UNLIKELY(tracker_on_activity != NULL))
        tracker_on_activity();
}

// gettid is a system call, and a thread has one number for life (a forked child's is reset).
extern HOT_THREAD_LOCAL uint32_t tracking_tid;

static inline uint32_t thread_id(void) {
    if (UNLIKELY(tracking_tid == 0))
        tracking_tid = (uint32_t)sys_gettid();
    return tracking_tid;
}

// Enters a record for `fd`, passing on its reference. What stood there was closed behind our back;
// a socket whose fd is beyond the table (counted) is out of our sight from here on, too.
void number_enter_beside(int fd, uint32_t number);
static inline void number_enter(int fd, uint32_t number) {
    if (UNLIKELY(number == 0) || UNLIKELY(!ledger_fd_put(fd, number)))
        number_enter_beside(fd, number);
}

// The record of an fd, held; made where there is none and the fd is a socket.
uint32_t birth_adopt(int fd, const void *caller);
static inline uint32_t hold_or_adopt(int fd, const void *caller) {
    uint32_t number = ledger_fd_hold(fd);
    return LIKELY(number) ? number : birth_adopt(fd, caller);
}

// Through an fd, or two fds, of a socket two threads may tell of it at once. Who is last stays.
// Whoever holds a record, and is not alone with it as at birth and after the last close, writes
// what changes in it by this, and reads it by an atomic load.
#define PUT(record, field, value) __atomic_store_n(&(record)->field, value, __ATOMIC_RELAXED)

// This process does something with a socket: it is not only inherited any more.
static inline void touch(struct ledger_record *record) {
    PUT(record, process, ledger.header->process);
}

#endif
