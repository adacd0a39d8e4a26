// The records, and the table that finds them by fd.
#include "base/sys.h"
#include "ledger/ledger.h"
#include "ledger/sites.h"
#include <string.h>
#include <sys/mman.h>

_Static_assert(offsetof(struct ledger_record, birth_call) ==
                   offsetof(struct ledger_record, holders) + 4 * sizeof(uint32_t),
               "between holders and birth_call nothing is cleared by ledger_record_new()");

enum {
    HOLD_TRIES = 100
};

// --- records ------------------------------------------------------------------------------------

// Takes a freed record. The tag in the upper half makes each head different from all earlier ones,
// so that a head which left and came back (ABA) is noticed.
static HOT uint32_t pop_free(void) {
    uint64_t *head = &ledger.header->free_record;
    uint64_t old = __atomic_load_n(head, __ATOMIC_ACQUIRE);
    for (;;) {
        uint32_t number = (uint32_t)old;
        if (UNLIKELY(number == 0))
            return 0;
        uint32_t next = __atomic_load_n(&ledger.records[number].next_free, __ATOMIC_RELAXED);
        uint64_t fresh = ((old >> 32) + 1) << 32 | next;
        if (LIKELY(__atomic_compare_exchange_n(head, &old, fresh, false, __ATOMIC_ACQ_REL,
                                               __ATOMIC_ACQUIRE)))
            return number;
    }
}

static HOT void push_free(uint32_t number) {
    uint64_t *head = &ledger.header->free_record;
    uint64_t old = __atomic_load_n(head, __ATOMIC_RELAXED);
    uint64_t fresh;
    do {
        __atomic_store_n(&ledger.records[number].next_free, (uint32_t)old, __ATOMIC_RELAXED);
        fresh = ((old >> 32) + 1) << 32 | number;
    } while (
        !__atomic_compare_exchange_n(head, &old, fresh, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

typedef uint64_t __attribute__((may_alias)) word;
typedef word pair __attribute__((vector_size(16), aligned(8), may_alias));

_Static_assert(offsetof(struct ledger_record, holders) % sizeof(word) == 0 &&
                   offsetof(struct ledger_record, birth_call) % sizeof(word) == 0 &&
                   sizeof(struct ledger_record) % sizeof(word) == 0,
               "clear() goes word by word");

// gcc makes a memset of this size, and a loop over words, a `rep stos`, which takes longer to begin
// than this takes.
static inline void clear(struct ledger_record *record, size_t from, size_t to) {
    char *bytes = (char *)record;
#pragma GCC unroll 16
    for (; from + sizeof(pair) <= to; from += sizeof(pair))
        *(pair *)(void *)(bytes + from) = (pair){0};
    if (from < to)
        *(word *)(void *)(bytes + from) = 0;
}

HOT uint32_t ledger_record_new(void) {
    uint32_t number = pop_free();
    if (UNLIKELY(number == 0))
        number = (uint32_t)ledger_take(LEDGER_RECORDS, 1, sizeof(struct ledger_record));
    if (UNLIKELY(number == 0)) {
        ledger_count(&ledger.header->counters.untracked_records);
        return 0;
    }
    struct ledger_record *record = &ledger.records[number];
    // `holders`, `next_free` and `generation`, between the two parts, are read by who is late, and
    // so is `inode`, which is 0.
    clear(record, offsetof(struct ledger_record, birth_ns),
          offsetof(struct ledger_record, holders));
    clear(record, offsetof(struct ledger_record, birth_call), sizeof *record);
    __atomic_store_n(&record->generation, record->generation + 1, __ATOMIC_RELAXED);
    record->process = ledger.header->process;
    __atomic_store_n(&record->holders, 1, __ATOMIC_RELEASE);
    return number;
}

HOT bool ledger_hold(uint32_t number) {
    uint32_t *holders = &ledger.records[number].holders;
    uint32_t count = __atomic_load_n(holders, __ATOMIC_RELAXED);
    do {
        if (UNLIKELY(count == 0))
            return false;
    } while (UNLIKELY(!__atomic_compare_exchange_n(holders, &count, count + 1, false,
                                                   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)));
    return true;
}

static inline bool let_go(uint32_t number) {
    return __atomic_fetch_sub(&ledger.records[number].holders, 1, __ATOMIC_ACQ_REL) == 1;
}

static inline void end_socket(uint32_t number, bool by_close, uint64_t now_ns) {
    struct ledger_record *record = &ledger.records[number];
    struct ledger_counters *counters = &ledger.header->counters;
    ledger_count(by_close ? &counters->closed : &counters->closed_unseen);
    site_count_ended(record, by_close, now_ns);
    ledger_set_inode(record, 0);
    push_free(number);
}

static COLD void end_of_look(uint32_t number) {
    end_socket(number, true, 0);
}

HOT bool ledger_release(uint32_t number) {
    bool was_last = let_go(number);
    if (UNLIKELY(was_last))
        end_of_look(number);
    return was_last;
}

HOT bool ledger_release_closed(uint32_t number, uint64_t now_ns) {
    bool was_last = let_go(number);
    if (LIKELY(was_last))
        end_socket(number, true, now_ns);
    return was_last;
}

COLD bool ledger_release_vanished(uint32_t number) {
    bool was_last = let_go(number);
    if (was_last)
        end_socket(number, false, 0);
    return was_last;
}

// --- file descriptors ---------------------------------------------------------------------------

static COLD uint32_t hold_in_turmoil(int fd) {
    uint32_t number = 0, before;
    for (int failures = 0; failures < HOLD_TRIES; failures++) {
        before = number;
        number = ledger_fd(fd);
        if (number == 0)
            return 0;
        if (number != before)
            failures = 0;
        if (!ledger_hold(number))
            continue; // freed since we read the table: read it again
        if (ledger_fd(fd) == number)
            return number;
        ledger_release(number); // freed and used for another fd's socket since
        number = 0;
    }
    // An entry holds what it refers to, so this one is damaged (a fork in a signal handler that
    // interrupted us can do that): nobody may wait for it.
    __atomic_compare_exchange_n(&ledger.fds[fd], &number, 0, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
    return 0;
}

HOT uint32_t ledger_fd_hold(int fd) {
    uint32_t number = ledger_fd(fd);
    if (UNLIKELY(number == 0))
        return 0;
    if (UNLIKELY(!ledger_hold(number)))
        return hold_in_turmoil(fd);
    if (LIKELY(ledger_fd(fd) == number))
        return number;
    ledger_release(number); // freed and used for another fd's socket since
    return hold_in_turmoil(fd);
}

static void raise_fd_limit(uint64_t limit) {
    uint64_t *used = &ledger.header->regions[LEDGER_FDS].used;
    uint64_t old = __atomic_load_n(used, __ATOMIC_RELAXED);
    while (old < limit && !__atomic_compare_exchange_n(used, &old, limit, false, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED))
        ;
}

static int reserve(int fd) {
    int error = ledger_commit(LEDGER_FDS, ((uint64_t)(unsigned)fd + 1) * sizeof(uint32_t));
    if (error == 0)
        raise_fd_limit((uint64_t)(unsigned)fd + 1);
    return error;
}

int ledger_fd_reserve(int fd) {
    int error = reserve(fd);
    if (error < 0)
        ledger_count(&ledger.header->counters.untracked_fds);
    return error;
}

HOT uint32_t ledger_fd_take(int fd) {
    return UNLIKELY(ledger_fd(fd) == 0) ? 0
                                        : __atomic_exchange_n(&ledger.fds[fd], 0, __ATOMIC_ACQ_REL);
}

bool ledger_fd_restore(int fd, uint32_t number) {
    return reserve(fd) == 0 && ledger_fd_replace(fd, 0, number);
}

bool ledger_fd_replace(int fd, uint32_t from, uint32_t to) {
    return ledger_fd(fd) == from && __atomic_compare_exchange_n(&ledger.fds[fd], &from, to, false,
                                                                __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

int ledger_fd_limit(void) {
    return (int)__atomic_load_n(&ledger.header->regions[LEDGER_FDS].used, __ATOMIC_RELAXED);
}

// --- after a fork -------------------------------------------------------------------------------

enum {
    ON_FREE_LIST = 1u << 31 // in `seen`, which otherwise counts fds
};

// Is it there, and surely the one of its fd? The kernel copies descriptors before memory: a number
// that was closed and opened anew in between is another socket's in the child.
static bool is_known(uint64_t number, uint64_t records) {
    if (number >= records)
        return false;
    uint64_t inode = ledger.records[number].inode;
    return inode != 0 && inode != LEDGER_INODE_UNASKED;
}

// What refers to each record: fds alone, in a process that has begun with one thread. An entry of
// any other record goes.
static void count_references(uint32_t *seen, uint64_t records) {
    uint64_t fds = ledger.header->regions[LEDGER_FDS].used;
    for (uint64_t fd = 0; fd < fds; fd++) {
        uint32_t number = ledger.fds[fd];
        if (number && is_known(number, records))
            seen[number]++;
        else if (number)
            ledger.fds[fd] = 0;
    }
}

static uint64_t correct_holders(const uint32_t *seen, uint64_t records) {
    uint64_t in_use = 0;
    for (uint64_t number = 1; number < records; number++) {
        struct ledger_record *record = &ledger.records[number];
        if (record->holders != seen[number])
            record->holders = seen[number];
        // The thread that was writing it down is not in this process.
        if ((record->flags & RECORD_TELLING_EOF) && record->eof_ns == 0)
            record->flags &= (uint16_t)~RECORD_TELLING_EOF;
        if ((record->flags & RECORD_TELLING_ERROR) && record->error == 0)
            record->flags &= (uint16_t)~RECORD_TELLING_ERROR;
        if (seen[number])
            in_use++;
        else if (record->inode)
            record->inode = 0;
    }
    return in_use;
}

// Cuts the free list in front of what is not free, or stood on it before, and adds what is missing.
static void correct_free_list(uint32_t *seen, uint64_t records) {
    uint32_t last = 0, number = (uint32_t)ledger.header->free_record;
    while (number && number < records && seen[number] == 0) {
        seen[number] = ON_FREE_LIST;
        last = number;
        number = ledger.records[number].next_free;
    }
    if (number && last)
        ledger.records[last].next_free = 0;
    else if (number)
        ledger.header->free_record = 0;
    for (uint64_t missing = records; missing-- > 1;) // so that the lowest is used first
        if (seen[missing] == 0)
            push_free((uint32_t)missing);
}

int ledger_records_rebuild(uint64_t *in_use) {
    uint64_t records = ledger.header->regions[LEDGER_RECORDS].used;
    size_t bytes = records * sizeof(uint32_t);
    uint32_t *seen =
        sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sys_failed(seen)) {
        ledger.header->free_record = 0; // nothing is used again: what may be wrong does no harm
        return (int)(intptr_t)seen;
    }
    count_references(seen, records);
    *in_use = correct_holders(seen, records);
    correct_free_list(seen, records);
    sys_munmap(seen, bytes);
    return 0;
}
