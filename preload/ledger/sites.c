#include "ledger/sites.h"
#include "base/clock.h"
#include <string.h>

_Static_assert(offsetof(struct ledger_stack, closed) ==
                   offsetof(struct ledger_stack, opened) + sizeof(uint64_t),
               "clear() takes both at once");

enum {
    DESTINATION_PROBES = 32,
    CLOSE_STACK_GATES = 1024,
    ASSUMED_PLACES = 2048, // stacks that share one make each other's sockets be asked for
    ASSUMED_MAX = 64
};

enum destination_state {
    DESTINATION_FREE,
    DESTINATION_BEING_WRITTEN,
    DESTINATION_VALID
};

// The header's `forks` when this process began: a record that was born before that is its parent's.
static HOT_DATA uint32_t forks_before;

HOT bool site_is_inherited(const struct ledger_record *record) {
    return (int32_t)(record->forks - forks_before) < 0;
}

static void add(uint64_t *counter, uint64_t count) {
    __atomic_fetch_add(counter, count, __ATOMIC_RELAXED);
}

HOT void site_count_opened(const struct ledger_record *record) {
    if (LIKELY(record->birth_stack))
        ledger_count(&ledger.stacks[record->birth_stack].opened);
}

// --- lifetimes ----------------------------------------------------------------------------------

unsigned site_lifetime_bucket(uint64_t ms) {
    ms += ms == 0; // shares the first bucket with 1
    unsigned log2 = 63 - (unsigned)__builtin_clzll(ms);
    unsigned upper_half = (unsigned)(ms << 1 >> log2) & 1;
    unsigned bucket = 2 * log2 + upper_half;
    return bucket < LEDGER_LIFETIME_BUCKETS ? bucket : LEDGER_LIFETIME_BUCKETS - 1;
}

static HOT void note_lifetime(struct ledger_stack *site, uint64_t ms) {
    __atomic_fetch_add(&site->lifetimes[site_lifetime_bucket(ms)], 1, __ATOMIC_RELAXED);
    uint32_t lived = ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
    uint32_t max = __atomic_load_n(&site->lifetime_max_ms, __ATOMIC_RELAXED);
    while (UNLIKELY(max < lived) &&
           !__atomic_compare_exchange_n(&site->lifetime_max_ms, &max, lived, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

// --- active closes ------------------------------------------------------------------------------

static HOT void note_recent(uint64_t *ring, uint64_t now_ns) {
    uint32_t slot = (uint32_t)(now_ns / 1000000000 / LEDGER_RECENT_SLOT_S);
    uint64_t *entry = &ring[slot % LEDGER_RECENT_SLOTS];
    uint64_t old = __atomic_load_n(entry, __ATOMIC_RELAXED), fresh;
    do
        fresh = LIKELY(old >> 32 == slot) ? old + 1 : (uint64_t)slot << 32 | 1;
    while (UNLIKELY(!__atomic_compare_exchange_n(entry, &old, fresh, false, __ATOMIC_RELAXED,
                                                 __ATOMIC_RELAXED)));
}

static bool same_address(const struct ledger_address *a, const struct ledger_address *b) {
    uint64_t of_a[2], of_b[2]; // memcmp would be a call
    memcpy(of_a, a->ip, sizeof of_a);
    memcpy(of_b, b->ip, sizeof of_b);
    unsigned other = (unsigned)(a->family ^ b->family) | (unsigned)(a->port ^ b->port) |
                     (a->scope_id ^ b->scope_id);
    return (other | (of_a[0] ^ of_b[0]) | (of_a[1] ^ of_b[1])) == 0;
}

static uint32_t hash_of(const struct ledger_address *peer, uint32_t stack) {
    uint64_t parts[2], hash = (uint64_t)stack << 16 | peer->port;
    memcpy(parts, peer->ip, sizeof parts);
    for (int i = 0; i < 2; i++)
        hash = (hash ^ parts[i]) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(hash >> 32);
}

// The entry of a peer and a birth stack, made where there is none; NULL where it finds no place.
// One that another thread is writing right now is passed by, so that two entries may stand for the
// same pair: readers add them up.
static HOT struct ledger_destination *destination_of(const struct ledger_address *peer,
                                                     uint32_t stack) {
    uint32_t at = hash_of(peer, stack);
    for (int i = 0; i < DESTINATION_PROBES; i++, at++) {
        struct ledger_destination *entry = &ledger.destinations[at % LEDGER_DESTINATION_COUNT];
        uint32_t state = __atomic_load_n(&entry->state, __ATOMIC_ACQUIRE);
        if (LIKELY(state == DESTINATION_VALID) && LIKELY(entry->stack == stack) &&
            LIKELY(same_address(&entry->peer, peer)))
            return entry;
        if (state == DESTINATION_FREE &&
            __atomic_compare_exchange_n(&entry->state, &state, DESTINATION_BEING_WRITTEN, false,
                                        __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            entry->peer = *peer;
            entry->stack = stack;
            __atomic_store_n(&entry->state, DESTINATION_VALID, __ATOMIC_RELEASE);
            return entry;
        }
    }
    return NULL;
}

enum {
    DESTINATIONS_BYTES = LEDGER_DESTINATION_COUNT * sizeof(struct ledger_destination)
};

static NOINLINE bool make_destinations(struct ledger_region *region) {
    if (ledger_commit(LEDGER_DESTINATIONS, DESTINATIONS_BYTES) < 0)
        return false;
    __atomic_store_n(&region->used, LEDGER_DESTINATION_COUNT, __ATOMIC_RELAXED);
    return true;
}

static inline bool has_destinations(void) {
    struct ledger_region *region = &ledger.header->regions[LEDGER_DESTINATIONS];
    bool is_made =
        LIKELY(__atomic_load_n(&region->committed_bytes, __ATOMIC_ACQUIRE) >= DESTINATIONS_BYTES) &&
        LIKELY(__atomic_load_n(&region->used, __ATOMIC_RELAXED));
    return is_made || make_destinations(region);
}

static HOT void note_destination(const struct ledger_record *record, uint64_t now_ns) {
    bool is_client = record->birth_call != CALL_ACCEPT && record->birth_call != CALL_ACCEPT4 &&
                     record->peer.family != ADDRESS_NONE;
    if (!is_client)
        return;
    struct ledger_destination *entry =
        LIKELY(has_destinations()) ? destination_of(&record->peer, record->birth_stack) : NULL;
    if (UNLIKELY(!entry)) {
        ledger_count(&ledger.header->counters.destinations_lost);
        return;
    }
    ledger_count(&entry->closed_active);
    note_recent(entry->recent_active, now_ns);
}

// --- orders that are assumed --------------------------------------------------------------------

static HOT int32_t *assumed_of(const struct ledger_record *record) {
    static LARGE int32_t assumed[ASSUMED_PLACES];
    return &assumed[record->birth_stack % ASSUMED_PLACES];
}

HOT void site_count_assumed(const struct ledger_record *record) {
    __atomic_fetch_add(assumed_of(record), 1, __ATOMIC_RELAXED);
}

NOINLINE void site_forget_assumed(const struct ledger_record *record) {
    __atomic_fetch_sub(assumed_of(record), 1, __ATOMIC_RELAXED);
}

HOT bool site_has_many_assumed(const struct ledger_record *record) {
    return __atomic_load_n(assumed_of(record), __ATOMIC_RELAXED) >= ASSUMED_MAX;
}

// --- ends ---------------------------------------------------------------------------------------

static HOT void count_active(struct ledger_stack *site, const struct ledger_record *record,
                             uint64_t now_ns) {
    ledger_count(&site->closed_active);
    note_recent(site->recent_active, now_ns);
    note_destination(record, now_ns);
    uint32_t waited_ms = LEDGER_ENDING_WAITED_MS(record->ending);
    if (UNLIKELY(waited_ms)) {
        ledger_count(&site->gave_up);
        add(&site->gave_up_ms, waited_ms);
    }
}

static COLD void count_seldom(struct ledger_stack *site, uint32_t kind) {
    switch (kind) {
    case ENDING_RESET:
        ledger_count(&site->closed_reset);
        break;
    case ENDING_CONNECTING:
        ledger_count(&site->closed_connecting);
        break;
    case ENDING_SHARED:
        ledger_count(&site->closed_shared);
        break;
    default:
        break;
    }
}

HOT void site_count_ended(const struct ledger_record *record, bool by_close, uint64_t now_ns) {
    if (UNLIKELY(record->birth_stack == LEDGER_NO_STACK))
        return;
    if (UNLIKELY(ledger_flags(record) & RECORD_FIN_ASSUMED))
        site_forget_assumed(record);
    struct ledger_stack *site = &ledger.stacks[record->birth_stack];
    if (UNLIKELY(site_is_inherited(record))) { // its parent opened it, and counted that
        if (by_close)
            ledger_count(&site->closed_shared);
        return;
    }
    ledger_count(&site->closed);
    if (UNLIKELY(!by_close))
        return;
    uint64_t now = LIKELY(now_ns) ? now_ns : clock_now_ns();
    note_lifetime(site, LIKELY(now > record->birth_ns) ? (now - record->birth_ns) / 1000000 : 0);
    uint32_t kind = LEDGER_ENDING_KIND(record->ending);
    if (kind == ENDING_PASSIVE)
        ledger_count(&site->closed_passive);
    else if (LIKELY(kind == ENDING_ACTIVE))
        count_active(site, record, now);
    else
        count_seldom(site, kind);
}

// Two stacks may share a gate: then one of them is captured less often.
HOT bool site_wants_close_stack(uint32_t birth_stack, uint64_t now_ns) {
    static LARGE uint32_t gates[CLOSE_STACK_GATES];
    uint32_t *gate = &gates[birth_stack % CLOSE_STACK_GATES];
    uint32_t second = (uint32_t)(now_ns / 1000000000);
    uint32_t last = __atomic_load_n(gate, __ATOMIC_RELAXED);
    bool is_first = __atomic_load_n(&ledger.stacks[birth_stack].close_stack, __ATOMIC_RELAXED) ==
                    LEDGER_NO_STACK;
    return (last != second || is_first) &&
           (__atomic_compare_exchange_n(gate, &last, second, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED) ||
            is_first);
}

// --- after a fork -------------------------------------------------------------------------------

// To write is to copy the page, so what is zero is left alone.
static void clear(uint64_t *memory, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof *memory; i++)
        if (memory[i])
            memory[i] = 0;
}

void site_continue_in_child(void) {
    struct ledger_header *header = ledger.header;
    uint64_t stacks = header->regions[LEDGER_STACKS].used;
    for (uint64_t id = 1; id < stacks; id++) {
        struct ledger_stack *stack = &ledger.stacks[id];
        clear(&stack->opened, 2 * sizeof stack->opened); // and `closed`
        clear(&stack->closed_passive,
              sizeof *stack - offsetof(struct ledger_stack, closed_passive));
        if (stack->flags & STACK_SAMPLED)
            stack->flags &= (uint16_t)~STACK_SAMPLED;
    }
    clear((uint64_t *)(void *)ledger.destinations,
          header->regions[LEDGER_DESTINATIONS].committed_bytes);
    header->forks++; // also where no handler ran before the fork
    forks_before = header->forks;
}
