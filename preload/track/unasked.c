#include "track/unasked.h"
#include "base/sys.h"
#include "track/endings.h"
#include <errno.h>

HOT_DATA bool unasked_never;

uint64_t unasked_socket_inode(int fd) {
    struct stat status;
    return sys_fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

// An entry of a ring: fd, record number, and the record's generation, since both numbers are used
// again at once. 0 is empty.
enum {
    NUMBER_BITS = 20 // for both: see the plan in ledger.c
};
#define ENTRY_FD(entry) ((int)((entry) & ((1u << NUMBER_BITS) - 1)))
#define ENTRY_NUMBER(entry) ((uint32_t)((entry) >> NUMBER_BITS) & ((1u << NUMBER_BITS) - 1))

static inline uint64_t entry_of(uint32_t number, int fd) {
    uint64_t generation = __atomic_load_n(&ledger_record(number)->generation, __ATOMIC_RELAXED);
    return generation << (2 * NUMBER_BITS) | (uint64_t)number << NUMBER_BITS | (unsigned)fd;
}

// Not exchanged: two threads that take the same place at once lose one entry, which is asked by the
// next report then.
static uint64_t births[UNASKED_BIRTHS];
static HOT_DATA uint32_t next_birth;

// Puts it in the ring. Answers what it pushes out.
static inline uint64_t push(uint64_t entry) {
    uint32_t at = __atomic_load_n(&next_birth, __ATOMIC_RELAXED);
    __atomic_store_n(&next_birth, at + 1, __ATOMIC_RELAXED);
    uint64_t *place = &births[at % UNASKED_BIRTHS];
    uint64_t out = __atomic_load_n(place, __ATOMIC_RELAXED);
    __atomic_store_n(place, entry, __ATOMIC_RELAXED);
    return out;
}

// Is it the one that stands there now? Most are closed by the time, so no part of it is a branch
// of its own. Also true of an empty one.
static inline bool is_open(uint64_t entry) {
    uint32_t number = ENTRY_NUMBER(entry);
    int fd = ENTRY_FD(entry);
    return ((ledger_fd(fd) ^ number) | (entry_of(number, fd) ^ entry)) == 0;
}

// --- inodes -------------------------------------------------------------------------------------

// True where the record went.
static bool ask_inode(struct ledger_record *record, uint32_t number, int fd) {
    struct stat status;
    int error = sys_fstat(fd, &status);
    // Whoever closes the number takes it off the table first: so it was this socket's answer.
    if (ledger_fd(fd) != number)
        return false;
    uint64_t unasked = LEDGER_INODE_UNASKED;
    if (error == 0 && S_ISSOCK(status.st_mode)) {
        __atomic_compare_exchange_n(&record->inode, &unasked, status.st_ino, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    } else if ((error == 0 || error == -EBADF) && ledger_fd_replace(fd, number, 0)) {
        ledger_release_vanished(number); // closed behind our back
        return true;
    }
    return false;
}

uint64_t unasked_inode(uint32_t number, int fd) {
    struct ledger_record *record = ledger_record(number);
    uint64_t inode = ledger_inode(record);
    if (LIKELY(inode != LEDGER_INODE_UNASKED))
        return inode;
    uint32_t held = ledger_fd_hold(fd);
    bool went = held == number && ask_inode(record, number, fd);
    if (held == number)
        inode = ledger_inode(record);
    if (went)
        ledger_release_vanished(held); // the look
    else if (held)
        ledger_release(held);
    return went ? LEDGER_INODE_UNASKED : inode;
}

HOT void unasked_note_birth(uint32_t number, int fd) {
    uint64_t out = push(entry_of(number, fd));
    if (UNLIKELY(is_open(out)) && out)
        unasked_inode(ENTRY_NUMBER(out), ENTRY_FD(out));
}

void unasked_end(void) {
    __atomic_store_n(&unasked_never, true, __ATOMIC_SEQ_CST);
    int limit = ledger_fd_limit();
    for (int fd = 0; fd < limit; fd++) {
        uint32_t number = ledger_fd(fd);
        if (number)
            unasked_inode(number, fd);
    }
}

// --- ends of stream -----------------------------------------------------------------------------

static bool take_flag(struct ledger_record *record) {
    return __atomic_fetch_and(&record->flags, (uint16_t)~RECORD_EOF_UNASKED, __ATOMIC_ACQ_REL) &
           RECORD_EOF_UNASKED;
}

void unasked_eof_now(struct ledger_record *record, int fd) {
    struct ending_eof told;
    bool ended = ending_is_eof(record, fd, &told);
    if (!take_flag(record)) // somebody else was as quick, or it was connected anew
        return;
    if (ended)
        ending_put_fin(record, &told);
    else
        ending_forget_eof(record);
}
