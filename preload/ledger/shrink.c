// What a limit that comes late takes from the addresses that a ledger has reserved (ledger.h).
//
// Where they are given back the program may have something of its own a moment later. So nobody may
// make that usable, or map anything there: who grows a region, by a limit that was read before; who
// mends a cut file; a child that is forked meanwhile, or the ledger that it copies.
#include "base/process.h"
#include "base/sys.h"
#include "ledger/memory.h"

enum {
    SLACK_ALONE_BYTES = 256 << 10,
    // Another thread may be about to make a region larger, by what it saw of it and of its limit
    // before: by one step from there, and a little (ledger_commit).
    SLACK_BYTES = 2 * GROWTH_MAX_BYTES
};

// The table of descriptors grows by leaps, to the highest one: among threads it stays as it is.
static uint64_t bytes_to_keep(enum ledger_region_id id, unsigned shift) {
    bool is_alone = process_is_single_threaded();
    if (id == LEDGER_FDS && !is_alone)
        return UINT64_MAX;
    uint64_t kept = cut_writable_bytes(id) + (is_alone ? SLACK_ALONE_BYTES : SLACK_BYTES);
    uint64_t planned = ledger_reserve_bytes(id, shift);
    return kept > planned ? kept : planned;
}

static void lower(uint64_t *limit, uint64_t to) {
    uint64_t old = __atomic_load_n(limit, __ATOMIC_RELAXED);
    while (old > to &&
           !__atomic_compare_exchange_n(limit, &old, to, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
}

static void give_back(struct ledger_extent *extent) {
    uint64_t kept = __atomic_load_n(&extent->limit_bytes, __ATOMIC_SEQ_CST);
    uint64_t backed = extent->backed_bytes;
    if (kept >= backed)
        return;
    extent->backed_bytes = kept;
    backing_give_back(&ledger_backing, extent->offset + kept, extent->offset + backed);
}

// The limits first, for those that grow; then the addresses. Where a cut file is mended just now
// they stay ours, unused.
void ledger_live_within(uint64_t limit_bytes) {
    unsigned shift = ledger_shift_under(limit_bytes);
    if (shift == 0 || !ledger_exists() || ledger_is_growing_here())
        return;
    uint64_t mask = sys_block_signals();
    for (int i = 0; i < LEDGER_REGIONS; i++)
        lower(&ledger_extents[i].limit_bytes, bytes_to_keep((enum ledger_region_id)i, shift));
    if (cut_claim()) {
        for (int i = 0; i < LEDGER_REGIONS; i++)
            give_back(&ledger_extents[i]);
        cut_release();
    }
    sys_set_signal_mask(mask);
}
