// What a limit that comes late takes from the addresses that a ledger has reserved (ledger.h).
#include "base/process.h"
#include "base/sys.h"
#include "ledger/memory.h"

enum {
    SLACK_ALONE_BYTES = 256 << 10,
    // Another thread may be about to make a region larger, by what it saw of it before: by one step
    // from there, and a little (ledger_commit).
    SLACK_BYTES = 2 * GROWTH_MAX_BYTES
};

static int shrinking; // one thread at a time

// The table of descriptors grows by leaps, to the highest one: among threads it stays as it is.
static uint64_t bytes_to_keep(enum ledger_region_id id, unsigned shift) {
    const struct ledger_region *region = &ledger.header->regions[id];
    bool is_alone = process_is_single_threaded();
    if (id == LEDGER_FDS && !is_alone)
        return region->reserved_bytes;
    uint64_t used = __atomic_load_n(&region->committed_bytes, __ATOMIC_ACQUIRE);
    uint64_t kept = used + (is_alone ? SLACK_ALONE_BYTES : SLACK_BYTES);
    uint64_t planned = ledger_reserve_bytes(id, shift);
    return kept > planned ? kept : planned;
}

// The limit first, for those that grow; then the addresses.
static void shrink_region(enum ledger_region_id id, unsigned shift) {
    struct ledger_region *region = &ledger.header->regions[id];
    uint64_t was = region->reserved_bytes, kept = bytes_to_keep(id, shift);
    if (kept >= was)
        return;
    cut_header.regions[id].reserved_bytes = kept;
    __atomic_store_n(&region->reserved_bytes, kept, __ATOMIC_SEQ_CST);
    backing_give_back(&ledger_backing, region->offset + kept, region->offset + was);
}

void ledger_live_within(uint64_t limit_bytes) {
    unsigned shift = ledger_shift_under(limit_bytes);
    int none = 0;
    if (shift == 0 || !ledger_exists() || cut_is_header_gone() ||
        !__atomic_compare_exchange_n(&shrinking, &none, 1, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        return;
    for (int i = 0; i < LEDGER_REGIONS; i++)
        shrink_region((enum ledger_region_id)i, shift);
    __atomic_store_n(&shrinking, 0, __ATOMIC_RELEASE);
}
