// The ledger in the process that writes it: creation, records, and the table fd -> record.
// Below it lie ledger_format.h (the layout) and backing.h (where the memory comes from).
//
// Everything here is lock-free, allocates nothing but the ledger's own memory, leaves errno alone
// and may be called in a signal handler, unless it says otherwise. A function that needs a ledger
// says so; where there is none it must not be called.
#ifndef SOCKLEAK_LEDGER_LEDGER_H
#define SOCKLEAK_LEDGER_LEDGER_H

#include "base/compiler.h"
#include "ledger/ledger_format.h"
#include <stdbool.h>
#include <stddef.h>

// Addresses of the parts. Set once, before `header`, and the same in every forked child; but for
// `is_file`, where a child's own file cannot be made, or the file was cut.
struct ledger {
    struct ledger_header *header; // NULL while there is no ledger
    uint32_t *fds;
    struct ledger_record *records;
    uint32_t *buckets;
    struct ledger_stack *stacks;
    uint64_t *frames;
    struct ledger_module *modules;
    char *strings;
    struct ledger_destination *destinations;
    bool is_file; // one that outlives the process
};

extern struct ledger ledger;

static inline bool ledger_exists(void) {
    return __atomic_load_n(&ledger.header, __ATOMIC_ACQUIRE) != NULL;
}

// Creates the ledger where there is none: a file in `dir`, or private memory where dir is empty or
// the file cannot be made. Several threads may call it at once; one wins. `stack_depth` is
// recorded. `before_first_use`, where not NULL, is called by who creates it, once there is memory,
// of which ledger_is_file() tells the kind, and before anything is written to a file. Returns 1 for
// who created it, 0 where it was there, or -errno: then there is none, the failure is remembered,
// and later calls fail at once.
int ledger_create(const char *dir, uint32_t stack_depth, void (*before_first_use)(void));

// True where ledger_create() has failed.
bool ledger_creation_failed(void);

// True where the ledger is a file that outlives the process.
static inline bool ledger_is_file(void) {
    return __atomic_load_n(&ledger.is_file, __ATOMIC_ACQUIRE);
}

// For the tools, which judge by the rules of these options where this process made no report. Once,
// behind the creation.
void ledger_note_options(uint32_t families, uint32_t grace_ms, uint32_t exit_grace_ms);

// In a handler of SIGBUS: true where it was at an address of the ledger's and is mended. The file
// behind it was truncated, by the user's own hand or root's, and what stood in it is lost. The
// ledger begins anew there, in memory of its own; other threads may be anywhere in it meanwhile, or
// this one in ledger_create().
bool ledger_survives_cut(const void *address);

// True where there is no file, or soon will be none; also after a cut that no signal tells of,
// since the file is longer again or nothing beyond its end was needed: then the ledger begins anew
// here. One stat.
bool ledger_left_file(void);

// Something is about to make a process that has our descriptors too, if only until it calls exec:
// what is open now may have another holder from here on. Does nothing without a ledger.
static inline void ledger_note_fork(void) {
    if (ledger_exists())
        __atomic_fetch_add(&ledger.header->forks, 1, __ATOMIC_RELAXED);
}

// For pthread_atfork, in the thread that forks: where the ledger is a file, the copy for the child
// is made before the fork, since its parent closes its own fds right after; and is given back in
// the parent, also where the fork failed. Both copy nothing without a file, or without a ledger.
void ledger_prepare_fork(void);
void ledger_fork_done_in_parent(void);

// In a forked child: makes the ledger the child's own, with counters from zero and a new `process`
// number, so that all records there are inherited. Private memory is that already; where the parent
// had other threads, what they were in the middle of is put right. Instead of its parent's file it
// gets one of its own, or private memory where that cannot be made, filled from the copy of
// ledger_prepare_fork(); where that did not run (_Fork, raw clone) from the parent's file as it is
// now, in which sockets that the parent has closed meanwhile have no origin any more. Neither has
// what another thread opened or closed during the fork itself: the kernel copies the descriptors
// first, and the memory later. Returns 0 or -errno; after an error there is no ledger. Blocks
// signals for as long as it takes.
int ledger_continue_in_child(void);

// Gives back addresses that are reserved and not used, until the ledger takes no more of a limit on
// them (RLIMIT_AS) than one that is created under it, or as little as it can: 0. For the process's
// life: sockets that have no room then are counted. Any thread, signal-safe.
void ledger_live_within(uint64_t limit_bytes);

// --- growth -------------------------------------------------------------------------------------

// Makes the first `bytes` of a region usable. Returns 0, or -errno where the region's reserve or
// the machine's memory is at an end.
int ledger_commit(enum ledger_region_id region, uint64_t bytes);

// Hands out `count` adjacent elements of `element_bytes`. Returns the index of the first, or 0
// where there is no room (no region has a usable element 0).
uint64_t ledger_take(enum ledger_region_id region, uint64_t count, uint64_t element_bytes);

// A string of LEDGER_STRINGS; "" for 0, where there was no room for it. Then there may be no memory
// behind ledger.strings at all.
static inline const char *ledger_string(uint64_t at) {
    return at ? ledger.strings + at : "";
}

// --- records ------------------------------------------------------------------------------------

// A new record, held once, all other fields zero. Returns its number, or 0 (counted) for no room.
uint32_t ledger_record_new(void);

static inline struct ledger_record *ledger_record(uint32_t number) {
    return &ledger.records[number];
}

// What was told of a socket: another thread may be telling more, through another fd.
static inline uint16_t ledger_flags(const struct ledger_record *record) {
    return __atomic_load_n(&record->flags, __ATOMIC_RELAXED);
}

// Whoever does not hold the record may find another socket's here, or 0.
static inline uint64_t ledger_inode(const struct ledger_record *record) {
    return __atomic_load_n(&record->inode, __ATOMIC_RELAXED);
}

static inline void ledger_set_inode(struct ledger_record *record, uint64_t inode) {
    __atomic_store_n(&record->inode, inode, __ATOMIC_RELAXED);
}

// Keeps a record from being freed while it is looked at. Returns false where it is free already.
bool ledger_hold(uint32_t number);

// Gives up one hold, or one fd's reference. The last one frees the record, and counts it as closed;
// true says so. A hold may be the last: then the socket was closed while it was looked at.
bool ledger_release(uint32_t number);

// The same, at a time of clock_now_ns() that the caller has read already.
bool ledger_release_closed(uint32_t number, uint64_t now_ns);

// The same for a reference whose fd is something else by now: counted as closed out of our sight.
bool ledger_release_vanished(uint32_t number);

// In a forked child whose parent had other threads, or wrote to the file that was copied: makes
// holders and the free list what the fd table says, since a record may have been copied in the
// middle of a change, and the holds of threads that are not here are gone. What has no inode yet
// goes: nothing tells whose its fd is here. Writes only to what is
// wrong: the rest stays shared with the parent. `*in_use` gets how many records are in use. Returns
// 0, or -errno: then nothing was looked at. fork.c alone calls it.
int ledger_records_rebuild(uint64_t *in_use);

// --- file descriptors ---------------------------------------------------------------------------

// The record of an fd, or 0. Cheap: one load and a bounds check.
static inline uint32_t ledger_fd(int fd) {
    uint64_t from = (uint64_t)(unsigned)fd * sizeof(uint32_t); // of a negative one beyond any table
    if (UNLIKELY(from >= __atomic_load_n(&ledger.header->regions[LEDGER_FDS].committed_bytes,
                                         __ATOMIC_RELAXED)))
        return 0;
    return __atomic_load_n(&ledger.fds[fd], __ATOMIC_ACQUIRE);
}

// The record of an fd, held. 0 for none. The caller releases it. An entry whose record is free,
// which only damage can make, is removed.
uint32_t ledger_fd_hold(int fd);

// Makes room for an fd's place. Returns 0, or -errno where the fd is beyond the table (counted).
int ledger_fd_reserve(int fd);

// Takes what stands in an fd's place from there, with its reference. 0 where nothing does.
uint32_t ledger_fd_take(int fd);

// Puts a record back in an fd's place if that is still empty, and passes the reference. Returns
// false where it was not.
bool ledger_fd_restore(int fd, uint32_t number);

// Puts `to` in an fd's place if `from` is what stands there; 0 is nothing. Passes the reference of
// `to`, and that of `from` to the caller. Returns false where something else stands there. Where
// `from` is nothing, the place was reserved.
bool ledger_fd_replace(int fd, uint32_t from, uint32_t to);

// The highest fd that was ever in the table, plus 1.
int ledger_fd_limit(void);

// Puts a record in an fd's place, if that is empty and is one that was used before, and passes its
// reference. Returns false where it is not.
static inline bool ledger_fd_put(int fd, uint32_t number) {
    uint32_t nothing = 0;
    return (uint64_t)(unsigned)fd <
               __atomic_load_n(&ledger.header->regions[LEDGER_FDS].used, __ATOMIC_RELAXED) &&
           ledger_fd(fd) == 0 &&
           __atomic_compare_exchange_n(&ledger.fds[fd], &nothing, number, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

// How many sockets with a record are open.
static inline uint64_t ledger_open_sockets(void) {
    const struct ledger_counters *c = &ledger.header->counters;
    uint64_t come = c->inherited + c->born + c->found, gone = c->closed + c->closed_unseen;
    return come > gone ? come - gone : 0; // behind a cut, one may have gone that had come before
}

static inline void ledger_count(uint64_t *counter) {
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

#endif
