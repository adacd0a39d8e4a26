#include "track/fast_unwind.h"
#include "base/compiler.h"
#include "base/readable.h"
#include "base/sys.h"
#include "track/frame_rules.h"
#include <pthread.h>

extern void *__libc_stack_end; // the loader's, of the main thread's stack

// --- what was learned ---------------------------------------------------------------------------

// A table of sets, each a cache line: return address << 16 | number of its rule, in one word, so
// that it is never torn. Rules are few (a shape of frame is one), and stay: it is the addresses
// that a dlclose makes void. A thread that learns while another unloads learns of frames on its own
// stack, which stay loaded, so what it learned is right until the second count of the unload
// (module_unloaded() is called behind it, too), and whoever runs in what was loaded there since has
// seen that count.
//
// Why this is right: from the same pc, rsp and rbp and the same words in the slots, the same rules
// lead to the same callers, and a rule is the row that the unwind tables have at that pc; libunwind
// does nothing else with such frames. Where libunwind was seen to differ, it is refused.
enum {
    SETS_LOG2 = 9,
    WAYS = 8,            // of 8 bytes
    RULES_MAX = 1 << 14, // 8 bytes each, touched when used
    PC_SHIFT = 16,
    PAGE_BYTES = 4096,         // or a multiple
    FRAME_MAX_BYTES = 1 << 20, // a larger one is libunwind's
    OWN_STACK_MAX_BYTES = 8 << 20
};

// Read and written as one.
union packed_rule {
    struct frame_rule rule;
    uint64_t word;
};

static LARGE uint64_t table[1 << SETS_LOG2][WAYS] __attribute__((aligned(64)));
static LARGE union packed_rule rules[RULES_MAX]; // number 0 is none
static uint32_t rules_used = 1;
static uint64_t seen_unloads;

static uint64_t *set_of(uintptr_t pc) {
    return table[(pc * 0x9e3779b97f4a7c15u) >> (64 - SETS_LOG2)];
}

static COLD void forget_unloaded(uint64_t unloads) {
    for (size_t i = 0; i < sizeof table / sizeof **table; i++)
        __atomic_store_n(&table[0][i], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&seen_unloads, unloads, __ATOMIC_RELEASE);
}

// NULL: not known.
static inline const union packed_rule *known_rule(uintptr_t pc) {
    const uint64_t *set = set_of(pc);
    for (int i = 0; i < WAYS; i++) {
        uint64_t entry = __atomic_load_n(&set[i], __ATOMIC_ACQUIRE);
        if (entry >> PC_SHIFT == pc && entry)
            return &rules[entry & ((1u << PC_SHIFT) - 1)];
    }
    return NULL;
}

// The number of a rule: one that is there, or a new one. 0: no room.
static uint32_t number_of(union packed_rule rule) {
    uint32_t used = __atomic_load_n(&rules_used, __ATOMIC_ACQUIRE);
    used = used < RULES_MAX ? used : RULES_MAX;
    for (uint32_t i = 1; i < used; i++)
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

// The place of a pc in its set: its own, a free one, or in turn another's.
static uint64_t *place_of(uintptr_t pc) {
    static uint32_t turn;
    uint64_t *set = set_of(pc), *free = NULL;
    for (int i = 0; i < WAYS; i++) {
        uint64_t entry = __atomic_load_n(&set[i], __ATOMIC_RELAXED);
        if (entry && entry >> PC_SHIFT == pc)
            return &set[i];
        if (!entry && !free)
            free = &set[i];
    }
    return free ? free : &set[__atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED) % WAYS];
}

static void remember(uintptr_t pc, struct frame_rule rule) {
    union packed_rule packed = {.rule = rule};
    uint32_t number = pc >> (64 - PC_SHIFT) ? 0 : number_of(packed);
    if (number)
        __atomic_store_n(place_of(pc), (uint64_t)pc << PC_SHIFT | number, __ATOMIC_RELEASE);
}

// --- the stack ----------------------------------------------------------------------------------

// Pages of the stack that could be read when we last asked, from the one that the stack pointer was
// in up. A thread's own stack stays for as long as the thread does. Another one, a coroutine's, may
// be unmapped behind our back, and be asked for anew each time.
HOT_THREAD_LOCAL uintptr_t fast_readable_from, fast_readable_to;
static THREAD_LOCAL bool is_own_stack;

// What libc keeps of a thread lies at the end of its stack; the loader notes where the main
// thread's ends. A fork copies it: the child runs on the same stack.
static COLD uintptr_t own_stack_end(void) {
    static THREAD_LOCAL uintptr_t end;
    if (end == 0)
        end =
            sys_gettid() == sys_getpid() ? (uintptr_t)__libc_stack_end : (uintptr_t)pthread_self();
    return end;
}

static bool extend_readable(uintptr_t to) {
    for (; fast_readable_to < to; fast_readable_to += PAGE_BYTES)
        // NOLINTNEXTLINE(performance-no-int-to-ptr)
        if (!readable((const void *)fast_readable_to, PAGE_BYTES))
            return false;
    return true;
}

// Never too large, whenever a signal handler leaves it by siglongjmp.
static void begin_readable(uintptr_t from) {
    from &= ~(uintptr_t)(PAGE_BYTES - 1);
    __atomic_store_n(&fast_readable_to, 0, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&fast_readable_from, from, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&fast_readable_to, from, __ATOMIC_RELAXED);
    uintptr_t end = own_stack_end();
    is_own_stack = end > from && end - from <= OWN_STACK_MAX_BYTES && extend_readable(end);
}

// Makes [from, to) of the stack readable. False where it is not.
static COLD bool ask_readable(uintptr_t from, uintptr_t to) {
    if (to < from || to - from > FRAME_MAX_BYTES)
        return false;
    if (from < fast_readable_from || from >= fast_readable_to)
        begin_readable(from);
    return extend_readable(to);
}

// Behind each walk: of what may be unmapped nothing is believed by the next.
static inline void forget_foreign_stack(void) {
    if (UNLIKELY(!is_own_stack))
        fast_readable_to = 0;
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
    uintptr_t size = cfa - at->rsp; // also of a base that is no pointer, and of a sum that wrapped
    if (UNLIKELY(cfa % sizeof cfa || size > FRAME_MAX_BYTES ||
                 size < (uintptr_t)(intptr_t)-rule.rbp_offset))
        return false;
    if (UNLIKELY(cfa > fast_readable_to) && !ask_readable(at->rsp, cfa))
        return false;
    if (rule.rbp_offset != FRAME_RBP_KEPT)
        at->rbp = load(cfa + (uintptr_t)(intptr_t)rule.rbp_offset);
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
static THREAD_LOCAL uint64_t recent_unloads; // when they were written

static COLD void forget_recent(uint64_t unloads) {
    for (int i = 0; i < RECENT; i++)
        recent[i].pc = 0;
    recent_unloads = unloads;
}

// Invalid while it is written: a signal handler may leave it so by siglongjmp.
static void note_recent(const struct fast_start *at, uint64_t rule) {
    size_t place = at->rsp / 16 % RECENT;
    __atomic_store_n(&recent[place].pc, 0, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&recent[place].rule, rule, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&recent[place].pc, at->pc, __ATOMIC_RELAXED);
}

static NOINLINE bool find_rule(const struct fast_start *at, union packed_rule *out) {
    const union packed_rule *known = known_rule(at->pc);
    if (!known)
        return false;
    out->word = __atomic_load_n(&known->word, __ATOMIC_RELAXED);
    note_recent(at, out->word);
    return true;
}

static int walk(const struct fast_start *start, void **out, int max, bool *learn) {
    struct fast_start at = *start;
    for (int depth = 0; depth < max; depth++) {
        size_t place = at.rsp / 16 % RECENT;
        union packed_rule packed = {.word = recent[place].rule};
        if (UNLIKELY(recent[place].pc != at.pc) && !find_rule(&at, &packed)) {
            *learn = true;
            return 0;
        }
        if (UNLIKELY(!step(&at, packed.rule)))
            return packed.rule.kind == FRAME_OUTERMOST ? depth : 0;
        out[depth] = (void *)at.pc; // NOLINT(performance-no-int-to-ptr)
    }
    return max;
}

int fast_backtrace(const struct fast_start *start, void **out, int max, uint64_t unloads,
                   bool *learn) {
    *learn = false;
    if (UNLIKELY(__atomic_load_n(&seen_unloads, __ATOMIC_ACQUIRE) != unloads))
        forget_unloaded(unloads);
    if (UNLIKELY(recent_unloads != unloads))
        forget_recent(unloads);
    if (UNLIKELY(start->rsp < fast_readable_from || start->rsp >= fast_readable_to) &&
        !ask_readable(start->rsp, start->rsp + 1))
        return 0;
    int depth = walk(start, out, max, learn);
    forget_foreign_stack();
    return depth;
}

static void learn_until_refused(const struct fast_start *start, void *const *pcs, int depth,
                                int max) {
    struct fast_start at = *start;
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

void fast_learn(const struct fast_start *start, void *const *pcs, int depth, int max) {
    if (ask_readable(start->rsp, start->rsp + 1))
        learn_until_refused(start, pcs, depth, max);
    forget_foreign_stack();
}

// --- what a walk depends on ---------------------------------------------------------------------

static bool note_slot(struct fast_slots *out, const struct fast_start *start, uintptr_t at,
                      uintptr_t value) {
    uintptr_t offset = (at - start->rsp) / sizeof at;
    if (out->count == FAST_SLOTS_MAX || offset > UINT16_MAX)
        return false;
    out->offsets[out->count] = (uint16_t)offset;
    out->values[out->count++] = value;
    return true;
}

// The rule at a return address, as it was learned; of the start, which is our own code, as it is.
static struct frame_rule rule_for(uintptr_t pc, const struct fast_start *start) {
    const union packed_rule *known = known_rule(pc);
    if (known)
        return (union packed_rule){.word = __atomic_load_n(&known->word, __ATOMIC_RELAXED)}.rule;
    if (pc != start->pc)
        return FRAME_RULE_REFUSED;
    struct frame_rule rule = frame_rule_at(pc);
    remember(pc, rule);
    return rule;
}

static bool slots_of(const struct fast_start *start, void *const *pcs, int depth, bool is_whole,
                     struct fast_slots *out) {
    struct fast_start at = *start;
    uintptr_t rbp_slot = 0; // 0: rbp is the start's
    bool rbp_noted = false;
    out->count = 0;
    out->by_rbp = false;
    if (!is_own_stack)
        return false;
    for (int found = 0; found < depth;) { // of pcs; our own frames come before
        struct frame_rule rule = rule_for(at.pc, start);
        if (rule.kind == FRAME_BY_RBP && !rbp_noted) {
            out->by_rbp = out->by_rbp || !rbp_slot;
            rbp_noted = true;
            if (rbp_slot && !note_slot(out, start, rbp_slot, at.rbp))
                return false;
        }
        if (!step(&at, rule) || !note_slot(out, start, at.rsp - sizeof at.rsp, at.pc))
            return false;
        if (rule.rbp_offset != FRAME_RBP_KEPT) {
            rbp_slot = at.rsp + (uintptr_t)(intptr_t)rule.rbp_offset;
            rbp_noted = false;
        }
        if (at.pc == (uintptr_t)pcs[found])
            found++;
        else if (found)
            return false;
    }
    return !is_whole || rule_for(at.pc, start).kind == FRAME_OUTERMOST;
}

bool fast_slots(const struct fast_start *start, void *const *pcs, int depth, bool is_whole,
                struct fast_slots *out) {
    bool is_known = slots_of(start, pcs, depth, is_whole, out);
    forget_foreign_stack();
    return is_known;
}
