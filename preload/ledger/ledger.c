#include "ledger/ledger.h"
#include "base/clock.h"
#include "base/process.h"
#include "base/sys.h"
#include "ledger/memory.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

HOT_DATA struct ledger ledger;
struct backing ledger_backing;
struct ledger_extent ledger_extents[LEDGER_REGIONS];

static int creating;         // pid of the process with a thread that is at it, 0 for none
static bool creation_failed; // remembered, so that later births cost one load

EXPORT struct ledger_locator sockleak_ledger_locator = {.magic = LEDGER_MAGIC};

// A region's reserve in elements, at full size. Where addresses are few (RLIMIT_AS) the big ones
// are divided by 16, or by 256.
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
    [LEDGER_DESTINATIONS] = {LEDGER_DESTINATION_COUNT, sizeof(struct ledger_destination), false},
};

enum {
    GROWTH_MIN_BYTES = 64 << 10
};
enum {
    SHIFT_STEP = 4,
    SHIFT_MAX = 8,
    LIMIT_SHARE = 16 // of the addresses that RLIMIT_AS allows we reserve at most one in 16
};
enum {
    CREATION_WAIT_MS = 50
};

uint64_t ledger_element_bytes(enum ledger_region_id region) {
    return plan[region].element_bytes;
}

void *ledger_map_anonymous(uint64_t bytes) {
    void *mapped =
        sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return sys_failed(mapped) ? NULL : mapped;
}

static uint64_t whole_pages(uint64_t bytes) {
    uint64_t page_bytes = sys_page_bytes();
    return (bytes + page_bytes - 1) & ~(page_bytes - 1);
}

uint64_t ledger_reserve_bytes(enum ledger_region_id id, unsigned shift) {
    uint64_t elements = plan[id].shrinks ? plan[id].elements >> shift : plan[id].elements;
    return whole_pages(elements * plan[id].element_bytes);
}

static uint64_t lay_out(struct ledger_region *regions, unsigned shift) {
    uint64_t offset = whole_pages(LEDGER_HEADER_BYTES);
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        regions[i] = (struct ledger_region){
            .offset = offset,
            .reserved_bytes = ledger_reserve_bytes(i, shift),
            .used = i == LEDGER_FDS ? 0 : 1, // number 0 is "none"
        };
        offset += regions[i].reserved_bytes;
    }
    return offset;
}

// What the reserve takes of the addresses under a limit, the program's malloc cannot have.
unsigned ledger_shift_under(uint64_t limit_bytes) {
    struct ledger_region regions[LEDGER_REGIONS];
    unsigned shift = 0;
    while (shift < SHIFT_MAX && lay_out(regions, shift) > limit_bytes / LIMIT_SHARE)
        shift += SHIFT_STEP;
    return shift;
}

static unsigned shift_under_limit(void) {
    struct rlimit limit;
    long error = sys_call(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&limit, 0, 0);
    return error < 0 || limit.rlim_cur == RLIM_INFINITY ? 0 : ledger_shift_under(limit.rlim_cur);
}

static int reserve(struct backing *out, const char *dir, struct ledger_region *regions) {
    unsigned first = shift_under_limit();
    int error = dir[0] ? -ENOMEM : -ENOENT;
    for (unsigned shift = first; shift <= SHIFT_MAX && error == -ENOMEM; shift += SHIFT_STEP)
        error = backing_reserve_file(out, lay_out(regions, shift), dir);
    for (unsigned shift = first; shift <= SHIFT_MAX && error < 0; shift += SHIFT_STEP)
        error = backing_reserve_private(out, lay_out(regions, shift));
    return error;
}

void ledger_describe_process(struct ledger_header *header) {
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
    header->destination_bytes = sizeof(struct ledger_destination);
    header->process = 1;
    header->stack_depth = stack_depth;
    memcpy(header->regions, regions, sizeof header->regions);
    ledger_describe_process(header);
    process_exe(header->exe, sizeof header->exe);
    // valgrind answers for the first as if the program ran without it; where the first thread has
    // ended, that is empty.
    long len = process_read_file("/proc/self/cmdline", header->cmdline, sizeof header->cmdline);
    if (len <= 0)
        len =
            process_read_file("/proc/thread-self/cmdline", header->cmdline, sizeof header->cmdline);
    header->cmdline_bytes = len > 0 ? (uint32_t)len : 0;
    len = process_read_file("/proc/sys/kernel/random/boot_id", header->boot_id,
                            sizeof header->boot_id - 1);
    if (len > 0 && header->boot_id[len - 1] == '\n')
        header->boot_id[len - 1] = '\0';
}

// `regions` and not the header's: what stands there may be gone already (cut.c).
static void publish(const struct ledger_region *regions) {
    char *base = ledger_backing.base;
    ledger.fds = (uint32_t *)(base + regions[LEDGER_FDS].offset);
    ledger.records = (struct ledger_record *)(base + regions[LEDGER_RECORDS].offset);
    ledger.buckets = (uint32_t *)(base + regions[LEDGER_BUCKETS].offset);
    ledger.stacks = (struct ledger_stack *)(base + regions[LEDGER_STACKS].offset);
    ledger.frames = (uint64_t *)(base + regions[LEDGER_FRAMES].offset);
    ledger.modules = (struct ledger_module *)(base + regions[LEDGER_MODULES].offset);
    ledger.strings = base + regions[LEDGER_STRINGS].offset;
    ledger.destinations = (struct ledger_destination *)(base + regions[LEDGER_DESTINATIONS].offset);
    sockleak_ledger_locator.bytes = ledger_backing.bytes;
    sockleak_ledger_locator.address = (uint64_t)(uintptr_t)base;
    __atomic_store_n(&ledger.header, (struct ledger_header *)base, __ATOMIC_RELEASE);
}

static int get_memory(const char *dir, struct ledger_region *regions) {
    int error = reserve(&ledger_backing, dir, regions);
    if (error == 0)
        error = backing_commit(&ledger_backing, 0, LEDGER_HEADER_BYTES);
    if (error < 0 && ledger_backing.is_file) { // a full disk: private memory takes over
        backing_discard(&ledger_backing);
        error = reserve(&ledger_backing, "", regions);
        if (error == 0)
            error = backing_commit(&ledger_backing, 0, LEDGER_HEADER_BYTES);
    }
    if (error < 0 && ledger_backing.base)
        backing_discard(&ledger_backing);
    return error;
}

static int create(const char *dir, uint32_t stack_depth, void (*before_first_use)(void)) {
    struct ledger_region regions[LEDGER_REGIONS];
    int error = get_memory(dir, regions);
    if (error < 0)
        return error;
    struct ledger_header *front = (struct ledger_header *)ledger_backing.base;
    for (int i = 0; i < LEDGER_REGIONS; i++)
        ledger_extents[i] = (struct ledger_extent){regions[i].offset, regions[i].reserved_bytes,
                                                   regions[i].reserved_bytes};
    ledger.is_file = ledger_backing.is_file;
    fill_header(ledger.is_file ? &cut_header : front, regions, stack_depth);
    if (before_first_use)
        before_first_use();
    if (ledger_is_file())
        *front = cut_header;
    publish(regions);
    return 0;
}

int ledger_create(const char *dir, uint32_t stack_depth, void (*before_first_use)(void)) {
    if (ledger_exists())
        return 0;
    if (ledger_creation_failed())
        return -ENOMEM;
    // Another thread is creating it now, which takes well under a millisecond; or the frame that
    // this signal handler interrupted is, which takes for ever. So wait, but not long.
    // A thread that was creating one when another forked this process is not in it: its claim is
    // taken over.
    int self = sys_getpid(), claimant = 0;
    for (int tries = 0; !__atomic_compare_exchange_n(&creating, &claimant, self, false,
                                                     __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
         tries++) {
        if (ledger_exists())
            return 0;
        if (claimant != self)
            continue;
        if (tries == CREATION_WAIT_MS)
            return -EBUSY; // this birth is not recorded; a report calls it "origin unknown"
        claimant = 0;
        sys_sleep_ms(1);
    }
    int error = ledger_exists() ? 0 : create(dir, stack_depth, before_first_use);
    if (error < 0)
        __atomic_store_n(&creation_failed, true, __ATOMIC_RELAXED);
    __atomic_store_n(&creating, 0, __ATOMIC_RELEASE);
    return error < 0 ? error : 1;
}

void ledger_note_options(uint32_t families, uint32_t grace_ms, uint32_t exit_grace_ms) {
    ledger.header->families = families;
    ledger.header->grace_ms = grace_ms;
    ledger.header->exit_grace_ms = exit_grace_ms;
    cut_keep_header();
}

void ledger_give_up(void) {
    __atomic_store_n(&ledger.header, NULL, __ATOMIC_RELEASE);
    __atomic_store_n(&ledger.is_file, false, __ATOMIC_RELEASE);
    __atomic_store_n(&creation_failed, true, __ATOMIC_RELAXED);
    sockleak_ledger_locator.address = 0;
}

bool ledger_creation_failed(void) {
    return __atomic_load_n(&creation_failed, __ATOMIC_RELAXED);
}

// --- growth -------------------------------------------------------------------------------------

static THREAD_LOCAL bool growing;

bool ledger_is_growing_here(void) {
    return growing;
}

// From where the limit is looked at to where the memory is usable: see shrink.c.
static int grow(enum ledger_region_id id, uint64_t committed, uint64_t bytes, uint64_t *target) {
    uint64_t limit = __atomic_load_n(&ledger_extents[id].limit_bytes, __ATOMIC_ACQUIRE);
    if (bytes > limit)
        return -ENOSPC;
    uint64_t step = committed < GROWTH_MIN_BYTES   ? GROWTH_MIN_BYTES
                    : committed > GROWTH_MAX_BYTES ? GROWTH_MAX_BYTES
                                                   : committed;
    *target = whole_pages(bytes);
    if (*target < committed + step)
        *target = committed + step;
    if (*target > limit)
        *target = limit;
    // Two threads may both grow it: the range only overlaps, and the larger target stands.
    cut_note_writable(id, *target);
    uint64_t offset = ledger_extents[id].offset;
    return backing_commit(&ledger_backing, offset + committed, offset + *target);
}

int ledger_commit(enum ledger_region_id id, uint64_t bytes) {
    struct ledger_region *region = &ledger.header->regions[id];
    uint64_t target = 0, committed = __atomic_load_n(&region->committed_bytes, __ATOMIC_ACQUIRE);
    if (LIKELY(bytes <= committed))
        return 0;
    if (cut_is_header_gone() && cut_was_met(0))
        return ledger_commit(id, bytes);
    bool was_growing = growing;
    growing = true;
    int error = grow(id, committed, bytes, &target);
    growing = was_growing;
    if (error < 0)
        return cut_was_met(error) ? ledger_commit(id, bytes) : error;
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
        cut_note_handed_out(id, first + count);
    } while (!__atomic_compare_exchange_n(used, &first, first + count, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return first;
}
