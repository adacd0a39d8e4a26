#include "track/walks.h"
#include "ledger/ledger.h"
#include "track/modules.h"

// Why this is right: a walk over plain frames reads a few words, each at a place that follows from
// the words before it, and nothing else. So equal words in the same places, compared in the order
// of the walk, from the same pc and stack pointer, are the same walk; also what is read is what the
// walk would read. rbp is compared where a frame was found by it: elsewhere it holds a variable of
// somebody's. A dlclose makes all walks void, as it does rules (fast_unwind.c) and frames
// (stacks.c); a fork does, too, since the child's ledger may be older than what is known here.
//
// A place is written under an odd version. It stays odd, and so is lost, where a signal handler
// jumps out of the write, or another thread forks during it: one of many.
enum {
    PLACES_LOG2 = 8, // 1 KB each, touched when used
    STRIDE = 4,
    STRIDES_MAX = FAST_SLOTS_MAX / STRIDE
};

struct place {
    uint32_t version; // odd while it is written
    uint32_t missed;  // who did not find its walk here last
    uintptr_t pc, rsp, rbp, caller;
    uint64_t unloads;
    uint32_t process;
    uint32_t stack;
    uint32_t strides;
    uint16_t by_rbp;
    uint16_t top;                  // the highest of the offsets
    uint64_t offsets[STRIDES_MAX]; // four each, in words from rsp, the lowest bits first
    uintptr_t values[STRIDES_MAX][STRIDE];
};

_Static_assert(FAST_SLOTS_MAX % STRIDE == 0, "filled up, they fit");

static struct place places[1 << PLACES_LOG2];

static uint64_t key_of(const struct fast_start *start, uintptr_t caller) {
    return (start->rsp ^ caller << 20) * 0x9e3779b97f4a7c15u;
}

static struct place *place_of(uint64_t key) {
    return &places[key >> (64 - PLACES_LOG2)];
}

#define GET(member) __atomic_load_n(&(member), __ATOMIC_RELAXED)
#define SET(member, value) __atomic_store_n(&(member), (value), __ATOMIC_RELAXED)
// Before the version is read again: on x86-64 no instruction.
#define GET_BEFORE(member) __atomic_load_n(&(member), __ATOMIC_ACQUIRE)

static inline bool is_for(const struct place *place, const struct fast_start *start,
                          uintptr_t caller) {
    return GET_BEFORE(place->pc) == start->pc && GET_BEFORE(place->rsp) == start->rsp &&
           GET_BEFORE(place->caller) == caller && GET_BEFORE(place->unloads) == module_unloads() &&
           GET_BEFORE(place->process) == ledger.header->process &&
           (!GET_BEFORE(place->by_rbp) || GET_BEFORE(place->rbp) == start->rbp) &&
           GET_BEFORE(place->top) < fast_readable_words(start->rsp);
}

// Four at a time, each four places known to be of one walk before what stands there is read: it is
// what the walk would read.
static inline bool is_same(const struct place *place, uint32_t version, const uintptr_t *stack) {
    uint32_t strides = GET_BEFORE(place->strides);
    for (uint32_t i = 0; i < strides && i < STRIDES_MAX; i++) {
        const uintptr_t *value = place->values[i];
        uint64_t at = GET_BEFORE(place->offsets[i]);
        if (UNLIKELY(GET(place->version) != version) ||
            UNLIKELY(stack[at & UINT16_MAX] != GET_BEFORE(value[0])) ||
            UNLIKELY(stack[at >> 16 & UINT16_MAX] != GET_BEFORE(value[1])) ||
            UNLIKELY(stack[at >> 32 & UINT16_MAX] != GET_BEFORE(value[2])) ||
            UNLIKELY(stack[at >> 48] != GET_BEFORE(value[3])))
            return false;
    }
    return true;
}

HOT uint32_t walk_known(const struct fast_start *start, const void *caller) {
    struct place *place = place_of(key_of(start, (uintptr_t)caller));
    __asm__("" : "+r"(place)); // gcc would compute each member's address anew
    uint32_t version = GET_BEFORE(place->version);
    if (UNLIKELY(version & 1) || UNLIKELY(!is_for(place, start, (uintptr_t)caller)))
        return LEDGER_NO_STACK;
    uint32_t stack = GET_BEFORE(place->stack);
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    if (!is_same(place, version, (const uintptr_t *)start->rsp))
        return LEDGER_NO_STACK;
    if (UNLIKELY(GET(place->version) != version))
        return LEDGER_NO_STACK;
    if (UNLIKELY(GET(place->missed)))
        SET(place->missed, 0);
    return stack;
}

void walk_remember(const struct fast_start *start, void *const *pcs, int depth, bool is_whole,
                   uint32_t id) {
    uint64_t key = key_of(start, (uintptr_t)pcs[0]);
    struct place *place = place_of(key);
    uint32_t who = (uint32_t)(key >> 16) | 1;
    // Twice in a row, so that walks that take turns do not drive each other out.
    if (GET(place->missed) != who) {
        SET(place->missed, who);
        return;
    }
    SET(place->missed, 0);
    uint64_t unloads = module_unloads();
    struct fast_slots walked;
    if (start->pc == 0 || !fast_slots(start, pcs, depth, is_whole, &walked))
        return;
    uint32_t version = GET(place->version);
    if ((version & 1) || !__atomic_compare_exchange_n(&place->version, &version, version + 1, false,
                                                      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    SET(place->pc, start->pc);
    SET(place->rsp, start->rsp);
    SET(place->rbp, start->rbp);
    SET(place->by_rbp, walked.by_rbp);
    SET(place->caller, (uintptr_t)pcs[0]);
    SET(place->unloads, unloads);
    SET(place->process, ledger.header->process);
    SET(place->stack, id);
    SET(place->strides, (walked.count + STRIDE - 1) / STRIDE);
    SET(place->top, walked.offsets[walked.count - 1]); // the last return address: frames go up
    for (uint32_t i = 0; i < walked.count; i += STRIDE) {
        uint64_t offsets = 0;
        for (uint32_t j = 0; j < STRIDE; j++) { // filled up with the last one
            uint32_t from = i + j < walked.count ? i + j : walked.count - 1;
            offsets |= (uint64_t)walked.offsets[from] << (16 * j);
            SET(place->values[i / STRIDE][j], walked.values[from]);
        }
        SET(place->offsets[i / STRIDE], offsets);
    }
    __atomic_store_n(&place->version, version + 2, __ATOMIC_RELEASE);
}
