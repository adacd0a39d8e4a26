// A ledger file that somebody truncates while it is mapped (ledger.h, ledger_survives_cut).
#include "base/clock.h"
#include "base/sys.h"
#include "ledger/memory.h"
#include <errno.h>
#include <string.h>

enum {
    UNLOADS_OF_A_CUT = 1 << 30 // more than any count that something was remembered with
};

LARGE struct ledger_header cut_header;
static uint64_t writable_bytes[LEDGER_REGIONS], handed_out[LEDGER_REGIONS];
// pid of the process with a thread that is at it, or 0; less than 0: nobody is to be.
static int mending;

bool cut_is_header_gone(void) {
    for (int i = 0; i < LEDGER_REGIONS; i++)
        if (ledger.header->regions[i].offset != cut_header.regions[i].offset)
            return ledger_is_file();
    return false;
}

// But for the regions, which stay what they are: the file may be cut while it is read.
void cut_keep_header(void) {
    const size_t from = offsetof(struct ledger_header, regions),
                 to = from + sizeof cut_header.regions;
    if (!ledger_is_file() || cut_is_header_gone())
        return;
    memcpy(&cut_header, ledger.header, from);
    memcpy((char *)&cut_header + to, (const char *)ledger.header + to, sizeof cut_header - to);
}

static void raise_to(uint64_t *mark, uint64_t value) {
    uint64_t old = __atomic_load_n(mark, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(mark, &old, value, false, __ATOMIC_SEQ_CST,
                                                       __ATOMIC_RELAXED))
        ;
}

void cut_note_writable(enum ledger_region_id region, uint64_t bytes) {
    raise_to(&writable_bytes[region], bytes);
}

uint64_t cut_writable_bytes(enum ledger_region_id region) {
    return __atomic_load_n(&writable_bytes[region], __ATOMIC_SEQ_CST);
}

void cut_note_handed_out(enum ledger_region_id region, uint64_t elements) {
    raise_to(&handed_out[region], elements);
}

COLD bool cut_was_met(int error) {
    return (cut_is_header_gone() ||
            (error == -EFAULT && ledger_is_file() && backing_is_cut(&ledger_backing))) &&
           ledger_survives_cut(ledger_backing.base);
}

bool cut_is_file_being_left(void) {
    return __atomic_load_n(&mending, __ATOMIC_ACQUIRE) > 0 || !ledger_is_file();
}

bool ledger_left_file(void) {
    bool is_cut = ledger_is_file() && (backing_is_cut(&ledger_backing) || cut_is_header_gone());
    if (is_cut)
        ledger_survives_cut(ledger_backing.base);
    return cut_is_file_being_left();
}

void cut_continue_in_child(void) {
    mending = 0;
}

// --- mending ------------------------------------------------------------------------------------

// Puts private memory in the place of a region of the file, for other threads may be anywhere in
// it: what was writable is so at any moment. Who makes more of it writable meanwhile has noted that
// before: it lies in the slack, or is made so again here, or by that thread behind this.
static int leave_region(enum ledger_region_id id, struct ledger_region *region) {
    const uint64_t *writable = &writable_bytes[id];
    uint64_t from = ledger_extents[id].offset, end = from + ledger_extents[id].backed_bytes;
    uint64_t to = from + __atomic_load_n(writable, __ATOMIC_SEQ_CST) + GROWTH_MAX_BYTES;
    if (to > end)
        to = end;
    int error = backing_replace(&ledger_backing, from, to, true);
    if (error == 0)
        error = backing_replace(&ledger_backing, to, end, false);
    uint64_t grown = from + __atomic_load_n(writable, __ATOMIC_SEQ_CST);
    if (error == 0 && grown > to) {
        error = backing_commit(&ledger_backing, to, grown);
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
    uint64_t front_bytes = cut_header.regions[0].offset;
    struct ledger_header *fresh = ledger_map_anonymous(front_bytes);
    int error = fresh ? 0 : -ENOMEM;
    for (int i = 0; i < LEDGER_REGIONS && error == 0; i++)
        error = leave_region((enum ledger_region_id)i, &cut_header.regions[i]);
    if (error == 0) {
        begin_anew(&cut_header);
        *fresh = cut_header;
        error = backing_replace_front(&ledger_backing, fresh, front_bytes);
    }
    if (error < 0 && fresh)
        sys_munmap(fresh, front_bytes);
    return error;
}

// A forked child may have inherited the claim of a thread that is not in it.
static bool claim(int self, int claimed) {
    int before = 0;
    while (!__atomic_compare_exchange_n(&mending, &before, claimed, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED))
        if (before == self || before == -self)
            return false;
    return true;
}

bool cut_claim(void) {
    int self = sys_getpid();
    return claim(self, -self);
}

void cut_release(void) {
    __atomic_store_n(&mending, 0, __ATOMIC_RELEASE);
}

static bool mend(const void *address) {
    static THREAD_LOCAL const void *tried;
    int self = sys_getpid();
    if (!claim(self, self)) {
        sys_sleep_ms(1);
        return true;
    }
    // Where another thread has done it, what failed need only be tried again. Should that fail,
    // too, it was not the file: a page of private memory, whose swap cannot be read.
    bool mended = ledger_is_file() ? leave_file() == 0 : tried != address;
    tried = address;
    if (mended && ledger_is_file()) {
        backing_remove_own_file(&ledger_backing); // what is left of it would tell untruths
        __atomic_store_n(&ledger_backing.is_file, false, __ATOMIC_RELAXED);
        __atomic_store_n(&ledger.is_file, false, __ATOMIC_RELEASE);
    }
    cut_release();
    return mended;
}

// A handler of the program's that came in between could enter our hooks, and wait for ever.
COLD bool ledger_survives_cut(const void *address) {
    if (!backing_has(&ledger_backing, address))
        return false;
    uint64_t mask = sys_block_signals();
    bool mended = mend(address);
    sys_set_signal_mask(mask);
    return mended;
}
