#include "ledger/ledger.h"
#include "base/clock.h"
#include "base/process.h"
#include "base/sys.h"
#include "ledger/backing.h"
#include <errno.h>
#include <string.h>

struct ledger ledger;
// What ledger.header points into. Written before it; read by growth and fork only.
static struct backing backing;
static bool creating;        // a thread is at it: single-flight, nobody waits for it
static bool creation_failed; // remembered, so that later births cost one load

EXPORT struct ledger_locator sockleak_ledger_locator = {.magic = LEDGER_MAGIC};

// A region's reserve in elements, at full size. Where so many addresses cannot be had (RLIMIT_AS),
// the big ones are divided by 16, and by 256.
static const struct {
    uint64_t elements;
    uint32_t element_bytes;
    bool shrinks;
} plan[LEDGER_REGIONS] = {
    [LEDGER_FDS] = {1u << 20, sizeof(uint32_t), true},
    [LEDGER_RECORDS] = {1u << 20, sizeof(struct ledger_record), true},
    [LEDGER_BUCKETS] = {LEDGER_BUCKET_COUNT, sizeof(uint32_t), false},
    [LEDGER_STACKS] = {1u << 16, sizeof(struct ledger_stack), true},
    [LEDGER_FRAMES] = {1u << 21, sizeof(uint64_t), true},
    [LEDGER_MODULES] = {1u << 12, sizeof(struct ledger_module), false},
    [LEDGER_STRINGS] = {1u << 20, 1, true},
};

enum {
    PAGE_BYTES = 4096,
    GROWTH_MIN_BYTES = 64 << 10,
    GROWTH_MAX_BYTES = 1 << 20
};
enum {
    CREATION_WAIT_MS = 50
};

static uint64_t whole_pages(uint64_t bytes) {
    return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

static uint64_t lay_out(struct ledger_region *regions, unsigned shift) {
    uint64_t offset = LEDGER_HEADER_BYTES;
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        uint64_t elements = plan[i].shrinks ? plan[i].elements >> shift : plan[i].elements;
        regions[i] = (struct ledger_region){
            .offset = offset,
            .reserved_bytes = whole_pages(elements * plan[i].element_bytes),
            .used = i == LEDGER_FDS ? 0 : 1, // number 0 is "none"
        };
        offset += regions[i].reserved_bytes;
    }
    return offset;
}

static int reserve(struct backing *out, const char *dir, struct ledger_region *regions) {
    if (dir[0] && backing_reserve_file(out, lay_out(regions, 0), dir) == 0)
        return 0;
    int error = -ENOMEM;
    for (unsigned shift = 0; shift <= 8 && error < 0; shift += 4)
        error = backing_reserve_private(out, lay_out(regions, shift));
    return error;
}

static void describe_process(struct ledger_header *header) {
    header->pid = (uint32_t)sys_getpid();
    header->parent_pid = (uint32_t)sys_getppid();
    header->start_time_ticks = process_start_time_ticks();
    header->created_ns = clock_now_ns();
    header->created_epoch_ns = clock_epoch_ns();
}

static void fill_header(struct ledger_header *header, const struct ledger_region *regions,
                        uint32_t stack_depth) {
    memcpy(header->magic, LEDGER_MAGIC, sizeof header->magic);
    header->version = LEDGER_VERSION;
    header->header_bytes = LEDGER_HEADER_BYTES;
    header->record_bytes = sizeof(struct ledger_record);
    header->stack_bytes = sizeof(struct ledger_stack);
    header->module_bytes = sizeof(struct ledger_module);
    header->process = 1;
    header->stack_depth = stack_depth;
    memcpy(header->regions, regions, sizeof header->regions);
    describe_process(header);
    process_exe(header->exe, sizeof header->exe);
    long len =
        process_read_file("/proc/thread-self/cmdline", header->cmdline, sizeof header->cmdline);
    header->cmdline_bytes = len > 0 ? (uint32_t)len : 0;
    len = process_read_file("/proc/sys/kernel/random/boot_id", header->boot_id,
                            sizeof header->boot_id - 1);
    if (len > 0 && header->boot_id[len - 1] == '\n')
        header->boot_id[len - 1] = '\0';
}

// A part of the ledger, located by its region's offset.
static void *part(enum ledger_region_id region) {
    const struct ledger_header *header = (const struct ledger_header *)backing.base;
    return backing.base + header->regions[region].offset;
}

static void publish(void) {
    ledger.fds = part(LEDGER_FDS);
    ledger.records = part(LEDGER_RECORDS);
    ledger.buckets = part(LEDGER_BUCKETS);
    ledger.stacks = part(LEDGER_STACKS);
    ledger.frames = part(LEDGER_FRAMES);
    ledger.modules = part(LEDGER_MODULES);
    ledger.strings = part(LEDGER_STRINGS);
    sockleak_ledger_locator.bytes = backing.bytes;
    sockleak_ledger_locator.address = (uint64_t)(uintptr_t)backing.base;
    __atomic_store_n(&ledger.header, (struct ledger_header *)backing.base, __ATOMIC_RELEASE);
}

static int create(const char *dir, uint32_t stack_depth) {
    struct ledger_region regions[LEDGER_REGIONS];
    int error = reserve(&backing, dir, regions);
    if (error == 0)
        error = backing_commit(&backing, 0, LEDGER_HEADER_BYTES);
    if (error < 0 && backing.is_file) { // a full disk: private memory takes over
        backing_discard(&backing);
        error = reserve(&backing, "", regions);
        if (error == 0)
            error = backing_commit(&backing, 0, LEDGER_HEADER_BYTES);
    }
    if (error < 0) {
        if (backing.base)
            backing_discard(&backing);
        return error;
    }
    fill_header((struct ledger_header *)backing.base, regions, stack_depth);
    publish();
    return 0;
}

int ledger_create(const char *dir, uint32_t stack_depth) {
    if (ledger_exists())
        return 0;
    if (ledger_creation_failed())
        return -ENOMEM;
    // Another thread is creating it now, which takes well under a millisecond; or the frame that
    // this signal handler interrupted is, which takes for ever. So wait, but not long.
    for (int tries = 0; __atomic_exchange_n(&creating, true, __ATOMIC_ACQUIRE); tries++) {
        if (ledger_exists())
            return 0;
        if (tries == CREATION_WAIT_MS)
            return -EBUSY; // this birth is not recorded; a report calls it "origin unknown"
        sys_sleep_ms(1);
    }
    int error = ledger_exists() ? 0 : create(dir, stack_depth);
    if (error < 0)
        __atomic_store_n(&creation_failed, true, __ATOMIC_RELAXED);
    __atomic_store_n(&creating, false, __ATOMIC_RELEASE);
    return error < 0 ? error : 1;
}

bool ledger_creation_failed(void) {
    return __atomic_load_n(&creation_failed, __ATOMIC_RELAXED);
}

bool ledger_is_file(void) {
    return backing.is_file;
}

static int copy_to(struct backing *fresh) {
    struct ledger_header *from = ledger.header;
    int error = backing_commit(fresh, 0, LEDGER_HEADER_BYTES);
    if (error < 0)
        return error;
    memcpy(fresh->base, from, LEDGER_HEADER_BYTES);
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        const struct ledger_region *region = &from->regions[i];
        if (region->committed_bytes == 0)
            continue;
        error = backing_commit(fresh, region->offset, region->offset + region->committed_bytes);
        if (error < 0)
            return error;
        memcpy(fresh->base + region->offset, backing.base + region->offset,
               region->committed_bytes);
    }
    return 0;
}

static int continue_in_file(void) {
    struct backing fresh;
    char dir[sizeof backing.path];
    memcpy(dir, backing.path, sizeof dir);
    *strrchr(dir, '/') = '\0';
    int error = backing_reserve_file(&fresh, backing.bytes, dir);
    if (error < 0)
        return error;
    error = copy_to(&fresh);
    if (error == 0)
        error = backing_replace(&backing, &fresh);
    if (error < 0)
        backing_discard(&fresh);
    return error;
}

static int continue_in_private_memory(void) {
    struct backing fresh;
    int error = backing_reserve_private(&fresh, backing.bytes);
    if (error < 0)
        return error;
    error = backing_commit(&fresh, 0, fresh.bytes);
    if (error == 0)
        error = copy_to(&fresh);
    if (error == 0)
        error = backing_replace(&backing, &fresh);
    if (error < 0)
        backing_discard(&fresh);
    return error;
}

static uint64_t open_sockets(const struct ledger_counters *counters) {
    return counters->inherited + counters->born + counters->found - counters->closed -
           counters->closed_unseen;
}

int ledger_continue_in_child(void) {
    if (backing.is_file && continue_in_file() < 0) {
        int error = continue_in_private_memory();
        if (error < 0) { // the file is our parent's: leave it alone from here on
            __atomic_store_n(&ledger.header, NULL, __ATOMIC_RELEASE);
            __atomic_store_n(&creation_failed, true, __ATOMIC_RELAXED);
            sockleak_ledger_locator.address = 0;
            return error;
        }
    }
    struct ledger_header *header = ledger.header;
    uint64_t inherited = open_sockets(&header->counters);
    memset(&header->counters, 0, sizeof header->counters);
    header->counters.inherited = inherited;
    header->process++;
    header->ended = ENDED_RUNNING;
    header->end_status = 0;
    header->snapshot_ns = 0;
    describe_process(header);
    return 0;
}

int ledger_commit(enum ledger_region_id id, uint64_t bytes) {
    struct ledger_region *region = &ledger.header->regions[id];
    uint64_t committed = __atomic_load_n(&region->committed_bytes, __ATOMIC_ACQUIRE);
    if (LIKELY(bytes <= committed))
        return 0;
    if (bytes > region->reserved_bytes)
        return -ENOSPC;
    uint64_t step = committed < GROWTH_MIN_BYTES   ? GROWTH_MIN_BYTES
                    : committed > GROWTH_MAX_BYTES ? GROWTH_MAX_BYTES
                                                   : committed;
    uint64_t target = whole_pages(bytes);
    if (target < committed + step)
        target = committed + step;
    if (target > region->reserved_bytes)
        target = region->reserved_bytes;
    // Two threads may both grow it: the range only overlaps, and the larger target stands.
    int error = backing_commit(&backing, region->offset + committed, region->offset + target);
    if (error < 0)
        return error;
    while (committed < target &&
           !__atomic_compare_exchange_n(&region->committed_bytes, &committed, target, false,
                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
        ;
    return 0;
}

uint64_t ledger_take(enum ledger_region_id id, uint64_t count, uint64_t element_bytes) {
    uint64_t *used = &ledger.header->regions[id].used;
    uint64_t first = __atomic_load_n(used, __ATOMIC_RELAXED);
    do {
        if (ledger_commit(id, (first + count) * element_bytes) < 0)
            return 0;
    } while (!__atomic_compare_exchange_n(used, &first, first + count, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return first;
}

// --- records ------------------------------------------------------------------------------------

// Takes a freed record. The tag in the upper half makes each head different from all earlier ones,
// so that a head which left and came back (ABA) is noticed.
static uint32_t pop_free(void) {
    uint64_t *head = &ledger.header->free_record;
    uint64_t old = __atomic_load_n(head, __ATOMIC_ACQUIRE);
    for (;;) {
        uint32_t number = (uint32_t)old;
        if (number == 0)
            return 0;
        uint32_t next = __atomic_load_n(&ledger.records[number].next_free, __ATOMIC_RELAXED);
        uint64_t fresh = ((old >> 32) + 1) << 32 | next;
        if (__atomic_compare_exchange_n(head, &old, fresh, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            return number;
    }
}

static void push_free(uint32_t number) {
    uint64_t *head = &ledger.header->free_record;
    uint64_t old = __atomic_load_n(head, __ATOMIC_RELAXED);
    uint64_t fresh;
    do {
        __atomic_store_n(&ledger.records[number].next_free, (uint32_t)old, __ATOMIC_RELAXED);
        fresh = ((old >> 32) + 1) << 32 | number;
    } while (
        !__atomic_compare_exchange_n(head, &old, fresh, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

uint32_t ledger_record_new(void) {
    uint32_t number = pop_free();
    if (number == 0)
        number = (uint32_t)ledger_take(LEDGER_RECORDS, 1, sizeof(struct ledger_record));
    if (number == 0) {
        ledger_count(&ledger.header->counters.untracked_records);
        return 0;
    }
    struct ledger_record *record = &ledger.records[number];
    uint32_t generation = record->generation + 1;
    // `holders` and `next_free` stay as they are: a late ledger_hold() or pop_free() may read them.
    uint32_t next_free = record->next_free;
    memset(record, 0, offsetof(struct ledger_record, holders));
    memset((char *)record + offsetof(struct ledger_record, generation), 0,
           sizeof *record - offsetof(struct ledger_record, generation));
    record->next_free = next_free;
    record->generation = generation;
    record->process = ledger.header->process;
    __atomic_store_n(&record->holders, 1, __ATOMIC_RELEASE);
    return number;
}

bool ledger_hold(uint32_t number) {
    uint32_t *holders = &ledger.records[number].holders;
    uint32_t count = __atomic_load_n(holders, __ATOMIC_RELAXED);
    do {
        if (count == 0)
            return false;
    } while (!__atomic_compare_exchange_n(holders, &count, count + 1, false, __ATOMIC_ACQ_REL,
                                          __ATOMIC_RELAXED));
    return true;
}

static bool release(uint32_t number, uint64_t *counter) {
    struct ledger_record *record = &ledger.records[number];
    uint32_t birth_stack = record->birth_stack;
    if (__atomic_fetch_sub(&record->holders, 1, __ATOMIC_ACQ_REL) != 1)
        return false;
    ledger_count(counter);
    if (birth_stack)
        ledger_count(&ledger.stacks[birth_stack].closed);
    record->inode = 0;
    push_free(number);
    return true;
}

bool ledger_release(uint32_t number) {
    return release(number, &ledger.header->counters.closed);
}

bool ledger_release_vanished(uint32_t number) {
    return release(number, &ledger.header->counters.closed_unseen);
}

// --- file descriptors ---------------------------------------------------------------------------

uint32_t ledger_fd_hold(int fd) {
    for (;;) {
        uint32_t number = ledger_fd(fd);
        if (number == 0)
            return 0;
        if (!ledger_hold(number))
            continue; // freed since we read the table: read it again
        if (ledger_fd(fd) == number)
            return number;
        ledger_release(number); // freed and used for another fd's socket since
    }
}

static void raise_fd_limit(uint64_t limit) {
    uint64_t *used = &ledger.header->regions[LEDGER_FDS].used;
    uint64_t old = __atomic_load_n(used, __ATOMIC_RELAXED);
    while (old < limit && !__atomic_compare_exchange_n(used, &old, limit, false, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED))
        ;
}

int ledger_fd_swap(int fd, uint32_t number, uint32_t *was) {
    *was = 0;
    if (number == 0 && ledger_fd(fd) == 0)
        return 0;
    int error = ledger_commit(LEDGER_FDS, ((uint64_t)(unsigned)fd + 1) * sizeof(uint32_t));
    if (error < 0) {
        ledger_count(&ledger.header->counters.untracked_fds);
        return error;
    }
    raise_fd_limit((uint64_t)(unsigned)fd + 1);
    *was = __atomic_exchange_n(&ledger.fds[fd], number, __ATOMIC_ACQ_REL);
    return 0;
}

bool ledger_fd_restore(int fd, uint32_t number) {
    uint32_t empty = 0;
    if (ledger_commit(LEDGER_FDS, ((uint64_t)(unsigned)fd + 1) * sizeof(uint32_t)) < 0)
        return false;
    raise_fd_limit((uint64_t)(unsigned)fd + 1);
    return __atomic_compare_exchange_n(&ledger.fds[fd], &empty, number, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

int ledger_fd_limit(void) {
    return (int)__atomic_load_n(&ledger.header->regions[LEDGER_FDS].used, __ATOMIC_RELAXED);
}
