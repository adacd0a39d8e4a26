#include "ledger/ledger.h"
#include "base/clock.h"
#include "base/process.h"
#include "base/sys.h"
#include "ledger/backing.h"
#include "ledger/sites.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

HOT_DATA struct ledger ledger;
// What ledger.header points into. Written before it; read by growth and fork only.
static struct backing backing;
// What of each region was made writable and how many elements were handed out, or are about to be;
// and the header as it was at first. For when the file is cut: then nothing that stood in it can be
// read.
static uint64_t writable_bytes[LEDGER_REGIONS], handed_out[LEDGER_REGIONS];
static LARGE struct ledger_header first_header;

static int mending; // pid of the process with a thread that puts it right after a cut, or 0

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
    GROWTH_MIN_BYTES = 64 << 10,
    GROWTH_MAX_BYTES = 1 << 20
};
enum {
    SHIFT_STEP = 4,
    SHIFT_MAX = 8,
    LIMIT_SHARE = 16 // of the addresses that RLIMIT_AS allows we reserve at most one in 16
};
enum {
    CREATION_WAIT_MS = 50,
    UNLOADS_OF_A_CUT = 1 << 30 // more than any count that something was remembered with
};

static uint64_t whole_pages(uint64_t bytes) {
    uint64_t page_bytes = sys_page_bytes();
    return (bytes + page_bytes - 1) & ~(page_bytes - 1);
}

static uint64_t lay_out(struct ledger_region *regions, unsigned shift) {
    uint64_t offset = whole_pages(LEDGER_HEADER_BYTES);
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

// What the reserve takes of the addresses under a limit, the program's malloc cannot have.
static unsigned shift_under_limit(struct ledger_region *regions) {
    struct rlimit limit;
    if (sys_call(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&limit, 0, 0) < 0 ||
        limit.rlim_cur == RLIM_INFINITY)
        return 0;
    unsigned shift = 0;
    while (shift < SHIFT_MAX && lay_out(regions, shift) > limit.rlim_cur / LIMIT_SHARE)
        shift += SHIFT_STEP;
    return shift;
}

static int reserve(struct backing *out, const char *dir, struct ledger_region *regions) {
    unsigned first = shift_under_limit(regions);
    int error = dir[0] ? -ENOMEM : -ENOENT;
    for (unsigned shift = first; shift <= SHIFT_MAX && error == -ENOMEM; shift += SHIFT_STEP)
        error = backing_reserve_file(out, lay_out(regions, shift), dir);
    for (unsigned shift = first; shift <= SHIFT_MAX && error < 0; shift += SHIFT_STEP)
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
    header->destination_bytes = sizeof(struct ledger_destination);
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
    ledger.destinations = part(LEDGER_DESTINATIONS);
    ledger.is_file = backing.is_file;
    sockleak_ledger_locator.bytes = backing.bytes;
    sockleak_ledger_locator.address = (uint64_t)(uintptr_t)backing.base;
    __atomic_store_n(&ledger.header, (struct ledger_header *)backing.base, __ATOMIC_RELEASE);
}

static void keep_header(void) {
    if (backing.is_file)
        first_header = *ledger.header;
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
    keep_header();
    return 0;
}

int ledger_create(const char *dir, uint32_t stack_depth) {
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
    int error = ledger_exists() ? 0 : create(dir, stack_depth);
    if (error < 0)
        __atomic_store_n(&creation_failed, true, __ATOMIC_RELAXED);
    __atomic_store_n(&creating, 0, __ATOMIC_RELEASE);
    return error < 0 ? error : 1;
}

void ledger_note_options(uint32_t families, uint32_t grace_ms, uint32_t exit_grace_ms) {
    ledger.header->families = families;
    ledger.header->grace_ms = grace_ms;
    ledger.header->exit_grace_ms = exit_grace_ms;
    keep_header();
}

bool ledger_creation_failed(void) {
    return __atomic_load_n(&creation_failed, __ATOMIC_RELAXED);
}

// --- growth -------------------------------------------------------------------------------------

static void raise_to(uint64_t *mark, uint64_t value) {
    uint64_t old = __atomic_load_n(mark, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(mark, &old, value, false, __ATOMIC_SEQ_CST,
                                                       __ATOMIC_RELAXED))
        ;
}

// What is left of the last page of a file that was cut reads as zero, as does all of one that was
// made longer again: no signal tells of that.
static bool is_header_gone(void) {
    for (int i = 0; i < LEDGER_REGIONS; i++)
        if (ledger.header->regions[i].reserved_bytes != first_header.regions[i].reserved_bytes)
            return ledger_is_file();
    return false;
}

static COLD bool was_cut(int error) {
    return (is_header_gone() ||
            (error == -EFAULT && ledger_is_file() && backing_is_cut(&backing))) &&
           ledger_survives_cut(backing.base);
}

int ledger_commit(enum ledger_region_id id, uint64_t bytes) {
    struct ledger_region *region = &ledger.header->regions[id];
    uint64_t committed = __atomic_load_n(&region->committed_bytes, __ATOMIC_ACQUIRE);
    if (LIKELY(bytes <= committed))
        return 0;
    if (bytes > region->reserved_bytes)
        return was_cut(0) ? ledger_commit(id, bytes) : -ENOSPC;
    uint64_t step = committed < GROWTH_MIN_BYTES   ? GROWTH_MIN_BYTES
                    : committed > GROWTH_MAX_BYTES ? GROWTH_MAX_BYTES
                                                   : committed;
    uint64_t target = whole_pages(bytes);
    if (target < committed + step)
        target = committed + step;
    if (target > region->reserved_bytes)
        target = region->reserved_bytes;
    // Two threads may both grow it: the range only overlaps, and the larger target stands.
    raise_to(&writable_bytes[id], target);
    int error = backing_commit(&backing, region->offset + committed, region->offset + target);
    if (error < 0)
        return was_cut(error) ? ledger_commit(id, bytes) : error;
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
        raise_to(&handed_out[id], first + count);
    } while (!__atomic_compare_exchange_n(used, &first, first + count, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return first;
}

// Is the file none of ours any more, or about to be?
static bool is_being_left(void) {
    return __atomic_load_n(&mending, __ATOMIC_ACQUIRE) != 0 || !ledger_is_file();
}

static void *map_anonymous(uint64_t bytes) {
    void *mapped =
        sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return sys_failed(mapped) ? NULL : mapped;
}

// --- a file that is cut -------------------------------------------------------------------------

// Puts private memory in the place of a region of the file, for other threads may be anywhere in
// it: what was writable is so at any moment. Who makes more of it writable meanwhile has noted that
// before: it lies in the slack, or is made so again here, or by that thread behind this.
static int leave_region(struct ledger_region *region, const uint64_t *writable) {
    uint64_t from = region->offset, end = from + region->reserved_bytes;
    uint64_t to = from + __atomic_load_n(writable, __ATOMIC_SEQ_CST) + GROWTH_MAX_BYTES;
    if (to > end)
        to = end;
    int error = backing_replace(&backing, from, to, true);
    if (error == 0)
        error = backing_replace(&backing, to, end, false);
    uint64_t grown = from + __atomic_load_n(writable, __ATOMIC_SEQ_CST);
    if (error == 0 && grown > to) {
        error = backing_commit(&backing, to, grown);
        to = grown;
    }
    region->committed_bytes = to - from;
    return error;
}

// The memory is zero now, and a thread may still hold a number from before: none of them is handed
// out again, and `process` and `unloads` make void what is known of stacks beside the ledger.
static void begin_anew(struct ledger_header *fresh) {
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        bool has_none = i == LEDGER_FDS || i == LEDGER_DESTINATIONS; // no number that is "none"
        uint64_t used = __atomic_load_n(&handed_out[i], __ATOMIC_RELAXED);
        fresh->regions[i].used = used || has_none ? used : 1;
    }
    memset(&fresh->counters, 0, sizeof fresh->counters);
    fresh->free_record = 0;
    fresh->process++;
    fresh->unloads += UNLOADS_OF_A_CUT;
    fresh->created_ns = clock_now_ns();
    fresh->created_epoch_ns = clock_epoch_ns();
    fresh->file_cut_ns = fresh->created_ns;
}

// The header last, and at once: nobody finds it half written.
static int leave_file(void) {
    uint64_t front_bytes = first_header.regions[0].offset;
    struct ledger_header *fresh = map_anonymous(front_bytes);
    int error = fresh ? 0 : -ENOMEM;
    for (int i = 0; i < LEDGER_REGIONS && error == 0; i++)
        error = leave_region(&first_header.regions[i], &writable_bytes[i]);
    if (error == 0) {
        begin_anew(&first_header);
        *fresh = first_header;
        error = backing_replace_front(&backing, fresh, front_bytes);
    }
    if (error < 0 && fresh)
        sys_munmap(fresh, front_bytes);
    return error;
}

// A forked child may have inherited the claim of a thread that is not in it.
static bool claim(int *holder) {
    int self = sys_getpid(), before = 0;
    while (!__atomic_compare_exchange_n(holder, &before, self, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED))
        if (before == self)
            return false;
    return true;
}

static bool mend(const void *address) {
    static THREAD_LOCAL const void *tried;
    if (!claim(&mending)) {
        sys_sleep_ms(1);
        return true;
    }
    // Where another thread has done it, what failed need only be tried again. Should that fail,
    // too, it was not the file: a page of private memory, whose swap cannot be read.
    bool mended = ledger_is_file() ? leave_file() == 0 : tried != address;
    tried = address;
    if (mended && ledger_is_file()) {
        backing_remove_own_file(&backing); // what is left of it would tell untruths
        __atomic_store_n(&backing.is_file, false, __ATOMIC_RELAXED);
        __atomic_store_n(&ledger.is_file, false, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&mending, 0, __ATOMIC_RELEASE);
    return mended;
}

// A handler of the program's that came in between could enter our hooks, and wait for ever.
COLD bool ledger_survives_cut(const void *address) {
    if (!ledger_exists() || (uintptr_t)address - (uintptr_t)backing.base >= backing.bytes)
        return false;
    uint64_t mask = sys_block_signals();
    bool mended = mend(address);
    sys_set_signal_mask(mask);
    return mended;
}

// --- fork ---------------------------------------------------------------------------------------

// A copy of what is in use, for a child whose parent runs on in the shared file.
struct image {
    struct ledger_header header;
    void *parts[LEDGER_REGIONS]; // committed_bytes of each
};

// Per thread: the handlers of pthread_atfork run in the thread that forks, and two may fork at
// once.
static THREAD_LOCAL struct image *prepared;

static void drop(struct image *image) {
    for (int i = 0; i < LEDGER_REGIONS; i++)
        if (image->parts[i])
            sys_munmap(image->parts[i], image->header.regions[i].committed_bytes);
    sys_munmap(image, sizeof *image);
}

// Copies a ledger that other threads, or the parent, are writing to. The regions are in an order in
// which each refers to later ones only (fds to records to stacks to frames to modules to strings),
// and what is referred to was complete before; so each region's size is read, and its contents are
// copied, after the regions that refer to it. NULL: no memory, or the file was cut, and there is
// none any more.
static struct image *take_image(void) {
    if (is_header_gone() || is_being_left())
        ledger_survives_cut(backing.base);
    struct image *image = is_being_left() ? NULL : map_anonymous(sizeof *image);
    if (!image)
        return NULL;
    memcpy(&image->header, ledger.header, sizeof image->header);
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        struct ledger_region *live = &ledger.header->regions[i], *copy = &image->header.regions[i];
        copy->committed_bytes = __atomic_load_n(&live->committed_bytes, __ATOMIC_ACQUIRE);
        uint64_t used = __atomic_load_n(&live->used, __ATOMIC_RELAXED);
        uint64_t room = copy->committed_bytes / plan[i].element_bytes;
        copy->used = used < room || copy->committed_bytes == 0 ? used : room;
        if (copy->committed_bytes == 0)
            continue;
        image->parts[i] = map_anonymous(copy->committed_bytes);
        if (!image->parts[i]) {
            drop(image);
            return NULL;
        }
        memcpy(image->parts[i], backing.base + copy->offset, copy->committed_bytes);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    }
    if (is_being_left()) { // cut since
        drop(image);
        return NULL;
    }
    return image;
}

static int fill(const struct image *image) {
    int error = backing_commit(&backing, 0, LEDGER_HEADER_BYTES);
    if (error < 0)
        return error;
    memcpy(backing.base, &image->header, sizeof image->header);
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        const struct ledger_region *region = &image->header.regions[i];
        if (region->committed_bytes == 0)
            continue;
        error = backing_commit(&backing, region->offset, region->offset + region->committed_bytes);
        if (error < 0)
            return error;
        memcpy(backing.base + region->offset, image->parts[i], region->committed_bytes);
    }
    return 0;
}

// Puts the image in the place of the parent's file: as a file of our own, else as private memory.
static int adopt(const struct image *image) {
    char dir[sizeof backing.path];
    memcpy(dir, backing.path, sizeof dir);
    *strrchr(dir, '/') = '\0';
    int error = backing_renew_file(&backing, dir);
    if (error == 0) {
        error = fill(image);
        if (error < 0)
            backing_remove_file(&backing);
    }
    if (error < 0) {
        error = backing_renew_private(&backing);
        if (error == 0)
            error = fill(image);
    }
    ledger.is_file = backing.is_file;
    return error;
}

// While memory is exchanged no handler of the program may run: it could enter our hooks. Ours of
// SIGBUS may: the parent's file may be cut while it is copied.
static int leave_parents_file(void) {
    uint64_t mask = sys_block_signals();
    struct image *image = prepared ? prepared : take_image(); // _Fork and clone run no handlers
    prepared = NULL;
    if (image)
        mending = 0; // a thread that had begun on the parent's file is not in this process
    int error = image ? adopt(image) : ledger_is_file() ? -ENOMEM : 0;
    if (image)
        drop(image);
    if (error < 0) { // what is there may be our parent's: leave it alone from here on
        __atomic_store_n(&ledger.header, NULL, __ATOMIC_RELEASE);
        __atomic_store_n(&creation_failed, true, __ATOMIC_RELAXED);
        sockleak_ledger_locator.address = 0;
    }
    sys_set_signal_mask(mask);
    return error;
}

// That a process which forked had threads: for its children, should libc tell them otherwise.
static bool had_threads;

void ledger_prepare_fork(void) {
    if (!process_is_single_threaded())
        __atomic_store_n(&had_threads, true, __ATOMIC_RELAXED);
    ledger_note_fork(); // in front of the fork, and of the copy: the child counts on from there
    ledger_fork_done_in_parent(); // a signal handler that forks between the two: the later one
                                  // counts
    if (ledger_exists() && ledger_is_file())
        prepared = take_image();
}

void ledger_fork_done_in_parent(void) {
    struct image *image = prepared;
    prepared = NULL;
    if (image)
        drop(image);
}

// A fork copies the memory at one moment, but not the work of other threads: a record that one of
// them holds, takes or frees at that moment is nobody's here. Nor is it the moment at which the
// descriptors are copied: those come first (copy_files and copy_mm of copy_process, kernel/fork.c).
static uint64_t correct_records(void) {
    uint64_t inherited = ledger_open_sockets();
    if (!ledger_is_file() && !__atomic_load_n(&had_threads, __ATOMIC_RELAXED) &&
        process_is_single_threaded())
        return inherited; // of one thread: nothing can be wrong, and nothing needs to be looked at
    uint64_t mask = sys_block_signals();
    ledger_records_rebuild(&inherited); // where it cannot, nothing is better known
    sys_set_signal_mask(mask);
    return inherited;
}

int ledger_continue_in_child(void) {
    int error = ledger_is_file() ? leave_parents_file() : 0;
    if (error < 0)
        return error;
    uint64_t inherited = correct_records();
    struct ledger_header *header = ledger.header;
    memset(&header->counters, 0, sizeof header->counters);
    site_continue_in_child();
    header->counters.inherited = inherited;
    header->process++;
    header->ended = ENDED_RUNNING;
    header->end_status = 0;
    header->snapshot_ns = 0;
    header->exec_ns = 0; // another thread of the parent's may have been about to
    // Not getppid(): where the parent ends at once, as a daemon's does, that is who adopts the
    // child. A socket that both have is one finding, the parent's.
    uint32_t forked_by = header->pid;
    describe_process(header);
    header->parent_pid = forked_by;
    keep_header();
    return 0;
}
