#include "track/stacks.h"
#include "base/guard.h"
#include "base/options.h"
#include "ledger/ledger.h"
#include "track/modules.h"
#include "track/unwinder.h"
#include "track/walks.h"

// Our own frames between the unwinder and the program: at most this many.
enum {
    OWN_FRAMES_MAX = 12
};
_Static_assert((int)OPTION_STACK_DEPTH_MAX <= (int)LEDGER_STACK_DEPTH_MAX,
               "a ledger has room for it");

// 64 bits are enough to tell stacks apart by the hash alone: comparing frames would touch their
// memory at every birth. Four sums that do not wait for each other, since a chain of
// multiplications over all frames would take longer than the rest of a birth; each step is one of
// splitmix64's.
//
// `others` counts the stacks of the same addresses that were other files' (see intern).
static uint64_t hash_of(void *const *pcs, int depth, uint64_t others) {
    enum {
        LANES = 4
    };
    uint64_t lane[LANES] = {(uint64_t)depth, others, 0x9e3779b97f4a7c15u, 0};
    for (int i = 0; i < depth; i++) {
        uint64_t *sum = &lane[i % LANES];
        *sum ^= (uint64_t)(uintptr_t)pcs[i];
        *sum *= 0xbf58476d1ce4e5b9u;
        *sum ^= *sum >> 29;
    }
    uint64_t hash = 0;
    for (int i = 0; i < LANES; i++) {
        hash = (hash ^ lane[i]) * 0x94d049bb133111ebu;
        hash ^= hash >> 32;
    }
    return hash;
}

static uint32_t find(uint32_t first, uint64_t hash) {
    for (uint32_t id = first; id; id = ledger.stacks[id].next)
        if (ledger.stacks[id].hash == hash)
            return id;
    return LEDGER_NO_STACK;
}

// Do the addresses still belong to the files that the stack was recorded with? After a dlclose
// others may be there. Asked once for each stack and unload: a loop that loads and unloads
// something else has the same stacks all along.
static bool still_stands(struct ledger_stack *stack, void *const *pcs, int depth) {
    uint32_t unloads = (uint32_t)module_unloads();
    if (__atomic_load_n(&stack->unloads, __ATOMIC_RELAXED) == unloads)
        return true;
    if (stack->depth != depth)
        return false;
    for (int i = 0; i < depth; i++)
        if (ledger.frames[stack->first_frame + (uint32_t)i] != module_frame(pcs[i]))
            return false;
    __atomic_store_n(&stack->unloads, unloads, __ATOMIC_RELAXED);
    return true;
}

static uint32_t add(uint64_t hash, void *const *pcs, int depth, uint16_t flags) {
    uint64_t id = ledger_take(LEDGER_STACKS, 1, sizeof(struct ledger_stack));
    uint64_t at = id ? ledger_take(LEDGER_FRAMES, (uint64_t)depth, sizeof(uint64_t)) : 0;
    if (at == 0) {
        ledger_count(&ledger.header->counters.stacks_lost);
        return LEDGER_NO_STACK;
    }
    struct ledger_stack *stack = &ledger.stacks[id];
    stack->unloads = (uint32_t)module_unloads(); // before the frames: one behind is asked again
    for (int i = 0; i < depth; i++)
        ledger.frames[at + (uint64_t)i] = module_frame(pcs[i]);
    stack->hash = hash;
    stack->first_frame = (uint32_t)at;
    stack->depth = (uint16_t)depth;
    stack->flags = flags;

    uint32_t *bucket = &ledger.buckets[hash % LEDGER_BUCKET_COUNT];
    uint32_t first = __atomic_load_n(bucket, __ATOMIC_ACQUIRE);
    for (;;) {
        uint32_t there = find(first, hash);
        if (there)
            return there; // another thread was quicker: ours stays unused
        stack->next = first;
        if (__atomic_compare_exchange_n(bucket, &first, (uint32_t)id, false, __ATOMIC_RELEASE,
                                        __ATOMIC_ACQUIRE))
            return (uint32_t)id;
    }
}

static uint32_t intern(void *const *pcs, int depth, uint16_t flags) {
    if (ledger_commit(LEDGER_BUCKETS, LEDGER_BUCKET_COUNT * sizeof(uint32_t)) < 0) {
        ledger_count(&ledger.header->counters.stacks_lost);
        return LEDGER_NO_STACK;
    }
    // As many rounds as different files have been at these addresses: almost always one.
    for (uint64_t others = 0;; others++) {
        uint64_t hash = hash_of(pcs, depth, others);
        uint32_t *bucket = &ledger.buckets[hash % LEDGER_BUCKET_COUNT];
        uint32_t id = find(__atomic_load_n(bucket, __ATOMIC_ACQUIRE), hash);
        if (!id)
            return add(hash, pcs, depth, flags);
        if (LIKELY(still_stands(&ledger.stacks[id], pcs, depth)))
            return id;
    }
}

static COLD uint32_t capture(const struct fast_start *start, const void *caller) {
    void *call_site = (void *)(uintptr_t)caller;
    if (guard_held() || !unwinder_ready()) {
        ledger_count(&ledger.header->counters.stacks_call_site);
        return intern(&call_site, 1, STACK_CALL_SITE_ONLY);
    }
    void *pcs[LEDGER_STACK_DEPTH_MAX + OWN_FRAMES_MAX];
    int limit = (int)ledger.header->stack_depth;
    uint32_t process = ledger.header->process;
    guard_enter();
    int depth = unwinder_backtrace(pcs, limit + OWN_FRAMES_MAX);
    int first = 0;
    while (first < depth && pcs[first] != call_site)
        first++;
    uint32_t id;
    if (first == depth) { // the unwinder did not get out of our own frames
        ledger_count(&ledger.header->counters.stacks_call_site);
        id = intern(&call_site, 1, STACK_CALL_SITE_ONLY);
    } else {
        int kept = depth - first < limit ? depth - first : limit;
        id = intern(pcs + first, kept, depth - first > limit ? STACK_DEPTH_REACHED : 0);
        if (LIKELY(id))
            walk_remember(start, pcs + first, depth - first, depth < limit + OWN_FRAMES_MAX, id,
                          process);
    }
    guard_leave();
    return id;
}

HOT NOINLINE uint32_t stack_capture(const void *caller) {
    struct fast_start start;
    FAST_START(start);
    uint32_t known = UNLIKELY(guard_held()) ? LEDGER_NO_STACK : walk_known(&start, caller);
    return LIKELY(known) ? known : capture(&start, caller);
}
