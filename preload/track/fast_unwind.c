#include "track/fast_unwind.h"
#include "base/compiler.h"
#include "track/frame_rules.h"
#include "track/readable.h"

// --- what was learned ---------------------------------------------------------------------------

// A direct-mapped table: return address << 16 | number of its rule, in one word, so that it is
// never torn. Rules are few (a shape of frame is one), and their numbers are handed out once: after
// a dlclose all numbers so far are void. A thread that learns while another unloads learns of
// frames on its own stack, which stay loaded, so what it learned is void by the second count of the
// unload (module_unloaded() is called behind it, too).
//
// Why this is right: from the same pc, rsp and rbp and the same words in the slots, the same rules
// lead to the same callers, and a rule is the row that the unwind tables have at that pc; libunwind
// does nothing else with such frames. Where libunwind was seen to differ, it is refused.
enum {
    TABLE_BITS = 12,
    RULES_MAX = 1 << 14, // 8 bytes each, touched when used
    PC_SHIFT = 16,
    PAGE_BYTES = 4096,        // or a multiple
    FRAME_MAX_BYTES = 1 << 20 // a larger one is libunwind's
};

// Read and written as one.
union packed_rule {
    struct frame_rule rule;
    uint64_t word;
};

static uint64_t table[1 << TABLE_BITS];
static union packed_rule rules[RULES_MAX]; // number 0 is none
static uint32_t rules_used = 1;
static uint32_t rules_void = 1; // the first number that is not
static uint64_t seen_unloads;

static uint64_t *slot_of(uintptr_t pc) {
    return &table[(pc * 0x9e3779b97f4a7c15u) >> (64 - TABLE_BITS)];
}

static void forget_unloaded(uint64_t unloads) {
    uint32_t used = __atomic_load_n(&rules_used, __ATOMIC_ACQUIRE);
    uint32_t below = __atomic_load_n(&rules_void, __ATOMIC_RELAXED);
    while (below < used && !__atomic_compare_exchange_n(&rules_void, &below, used, false,
                                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        ;
    __atomic_store_n(&seen_unloads, unloads, __ATOMIC_RELEASE);
}

// NULL: not known.
static inline const union packed_rule *known_rule(uintptr_t pc, uint32_t first_valid) {
    uint64_t entry = __atomic_load_n(slot_of(pc), __ATOMIC_ACQUIRE);
    uint32_t number = (uint32_t)entry & ((1u << PC_SHIFT) - 1);
    return entry >> PC_SHIFT == pc && number >= first_valid ? &rules[number] : NULL;
}

// The number of a rule: one that is there, or a new one. 0: no room.
static uint32_t number_of(union packed_rule rule) {
    uint32_t used = __atomic_load_n(&rules_used, __ATOMIC_ACQUIRE);
    used = used < RULES_MAX ? used : RULES_MAX;
    for (uint32_t i = __atomic_load_n(&rules_void, __ATOMIC_ACQUIRE); i < used; i++)
        if (__atomic_load_n(&rules[i].word, __ATOMIC_RELAXED) == rule.word)
            return i;
    if (used == RULES_MAX)
        return 0;
    // Nobody else has this number, and nobody finds the rule before it is whole: no rule is 0.
    uint32_t number = __atomic_fetch_add(&rules_used, 1, __ATOMIC_ACQ_REL);
    if (number >= RULES_MAX) {
        __atomic_fetch_sub(&rules_used, 1, __ATOMIC_ACQ_REL);
        return 0;
    }
    __atomic_store_n(&rules[number].word, rule.word, __ATOMIC_RELEASE);
    return number;
}

static void remember(uintptr_t pc, struct frame_rule rule) {
    union packed_rule packed = {.rule = rule};
    uint32_t number = pc >> (64 - PC_SHIFT) ? 0 : number_of(packed);
    if (number)
        __atomic_store_n(slot_of(pc), (uint64_t)pc << PC_SHIFT | number, __ATOMIC_RELEASE);
}

// --- the stack ----------------------------------------------------------------------------------

// Pages of this thread's stack that could be read when we last asked, from the one that the stack
// pointer was in up. They may be gone where a program unmaps stacks (coroutines); but what is
// unwound is the stack that it runs on.
static THREAD_LOCAL uintptr_t readable_from, readable_to;

// Makes [from, to) of the stack readable. False where it is not.
static COLD bool ask_readable(uintptr_t from, uintptr_t to) {
    if (from < readable_from || from >= readable_to)
        readable_from = readable_to = from & ~(uintptr_t)(PAGE_BYTES - 1);
    if (to < from || to - from > FRAME_MAX_BYTES)
        return false;
    for (; readable_to < to; readable_to += PAGE_BYTES)
        if (!readable((const void *)readable_to, PAGE_BYTES)) // NOLINT(performance-no-int-to-ptr)
            return false;
    return true;
}

static inline uintptr_t load(uintptr_t at) {
    return *(const uintptr_t *)at; // NOLINT(performance-no-int-to-ptr)
}

// From a frame to its caller: false where there is none, or it cannot be told. What is read lies
// between the two stack pointers, as a frame does.
static inline bool step(struct fast_start *at, struct frame_rule rule) {
    if (UNLIKELY(rule.kind != FRAME_BY_RSP && rule.kind != FRAME_BY_RBP))
        return false;
    uintptr_t cfa = rule.kind == FRAME_BY_RSP ? at->rsp : at->rbp;
    cfa += (uintptr_t)(intptr_t)rule.cfa_offset;
    uintptr_t rbp_slot = cfa + (uintptr_t)(intptr_t)rule.rbp_offset;
    if (UNLIKELY(cfa % sizeof cfa || rbp_slot < at->rsp))
        return false;
    if (UNLIKELY(cfa > readable_to) && !ask_readable(at->rsp, cfa))
        return false;
    if (rule.rbp_offset != FRAME_RBP_KEPT)
        at->rbp = load(rbp_slot);
    at->pc = load(cfa - sizeof cfa);
    at->rsp = cfa;
    return true;
}

// The rules that this thread used last, by the stack pointer. Only where they are found differs
// from the table: here the processor need not wait for the return address to know the next frame,
// it predicts that it is the one of last time. The guard keeps a signal handler out.
enum {
    RECENT = 64
};

static THREAD_LOCAL struct {
    uintptr_t pc;
    uint64_t rule;
} recent[RECENT];
static THREAD_LOCAL uint32_t recent_valid; // `rules_void` when they were written

static COLD void forget_recent(uint32_t first_valid) {
    for (int i = 0; i < RECENT; i++)
        recent[i].pc = 0;
    recent_valid = first_valid;
}

static NOINLINE bool find_rule(const struct fast_start *at, uint32_t first_valid,
                               union packed_rule *out) {
    const union packed_rule *known = known_rule(at->pc, first_valid);
    if (!known)
        return false;
    out->word = __atomic_load_n(&known->word, __ATOMIC_RELAXED);
    size_t place = at->rsp / 16 % RECENT;
    recent[place].rule = out->word;
    recent[place].pc = at->pc;
    return true;
}

int fast_backtrace(const struct fast_start *start, void **out, int max, uint64_t unloads,
                   bool *learn) {
    struct fast_start at = *start;
    *learn = false;
    if (UNLIKELY(__atomic_load_n(&seen_unloads, __ATOMIC_ACQUIRE) != unloads))
        forget_unloaded(unloads);
    uint32_t first_valid = __atomic_load_n(&rules_void, __ATOMIC_ACQUIRE);
    if (UNLIKELY(recent_valid != first_valid))
        forget_recent(first_valid);
    if (UNLIKELY(at.rsp < readable_from) && !ask_readable(at.rsp, at.rsp + 1))
        return 0;
    for (int depth = 0; depth < max; depth++) {
        size_t place = at.rsp / 16 % RECENT;
        union packed_rule packed = {.word = recent[place].rule};
        if (UNLIKELY(recent[place].pc != at.pc) && !find_rule(&at, first_valid, &packed)) {
            *learn = true;
            return 0;
        }
        if (UNLIKELY(!step(&at, packed.rule)))
            return packed.rule.kind == FRAME_OUTERMOST ? depth : 0;
        out[depth] = (void *)at.pc; // NOLINT(performance-no-int-to-ptr)
    }
    return max;
}

void fast_learn(const struct fast_start *start, void *const *pcs, int depth, int max) {
    struct fast_start at = *start;
    if (!ask_readable(at.rsp, at.rsp + 1))
        return;
    for (int i = 0; i <= depth && i < max; i++) {
        uintptr_t pc = at.pc;
        struct frame_rule rule = frame_rule_at(pc);
        bool stepped = step(&at, rule);
        bool agrees =
            i < depth ? stepped && at.pc == (uintptr_t)pcs[i] : rule.kind == FRAME_OUTERMOST;
        if (!agrees)
            rule = FRAME_RULE_REFUSED;
        remember(pc, rule);
        if (!agrees)
            return;
    }
}
