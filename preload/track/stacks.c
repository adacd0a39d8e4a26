#include "track/stacks.h"
#include "base/guard.h"
#include "ledger/ledger.h"
#include "track/modules.h"
#include "track/unwinder.h"

// Our own frames between the unwinder and the program: at most this many.
enum {
    OWN_FRAMES_MAX = 8
};

// 64 bits are enough to tell stacks apart by the hash alone: comparing frames would touch their
// memory at every birth. Four sums that do not wait for each other, since a chain of
// multiplications over all frames would take longer than the rest of a birth; each step is one of
// splitmix64's.
static uint64_t hash_of(void *const *pcs, int depth) {
    enum {
        LANES = 4
    };
    uint64_t lane[LANES] = {(uint64_t)depth, module_unloads(), 0x9e3779b97f4a7c15u, 0};
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

static uint32_t add(uint64_t hash, void *const *pcs, int depth, uint16_t flags) {
    uint64_t id = ledger_take(LEDGER_STACKS, 1, sizeof(struct ledger_stack));
    uint64_t at = id ? ledger_take(LEDGER_FRAMES, (uint64_t)depth, sizeof(uint64_t)) : 0;
    if (at == 0) {
        ledger_count(&ledger.header->counters.stacks_lost);
        return LEDGER_NO_STACK;
    }
    for (int i = 0; i < depth; i++)
        ledger.frames[at + (uint64_t)i] = module_frame(pcs[i]);
    struct ledger_stack *stack = &ledger.stacks[id];
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
    uint64_t hash = hash_of(pcs, depth);
    uint32_t first = __atomic_load_n(&ledger.buckets[hash % LEDGER_BUCKET_COUNT], __ATOMIC_ACQUIRE);
    uint32_t id = find(first, hash);
    return id ? id : add(hash, pcs, depth, flags);
}

uint32_t stack_capture(const void *caller) {
    void *call_site = (void *)(uintptr_t)caller;
    if (guard_held() || !unwinder_ready()) {
        ledger_count(&ledger.header->counters.stacks_call_site);
        return intern(&call_site, 1, STACK_CALL_SITE_ONLY);
    }
    void *pcs[LEDGER_STACK_DEPTH_MAX + OWN_FRAMES_MAX];
    int limit = (int)ledger.header->stack_depth;
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
    }
    guard_leave();
    return id;
}
