#include "track/walks.h"
#include "base/valgrind.h"
#include "ledger/ledger.h"
#include "track/modules.h"

// Why this is right: a walk over plain frames reads a few words, each at a place that follows from
// the words before it, and nothing else. So equal words in the same places, from the same pc and
// stack pointer, are the same walk. They are kept as their hash alone, of 64 bits as that of a
// stack is (stacks.c): this is looked at in each socket's life with cold caches, and costs what it
// touches. rbp is compared where a frame was found by it: elsewhere it holds a variable of
// somebody's. A dlclose makes all walks void, as it does rules (fast_unwind.c) and frames
// (stacks.c); a fork does, too, since the child's ledger may be older than what is known here, and
// so does a ledger that begins anew.
//
// Where another stack is in these places, words are read that mean nothing: all of them lie on this
// thread's own stack, between the stack pointer and its end. No sanitizer need look at that, and
// under a tool of valgrind's that would, nothing is remembered.
//
// A place is written under an odd version. It stays odd, and so is lost, where a signal handler
// jumps out of the write, or another thread forks during it: one of many.
enum {
    PLACES_LOG2 = 8, // touched when used
    STRIDE = 8,
    STRIDES_MAX = FAST_SLOTS_MAX / STRIDE
};

// Where these words are: in words from rsp, the lowest first.
union stride {
    uint64_t halves[2];
    uint16_t offsets[STRIDE];
};

struct place {
    uint32_t version; // odd while it is written
    uint32_t missed;  // who did not find its walk here last
    uintptr_t pc, rsp, rbp, caller;
    uint64_t words; // hash of them
    uint32_t unloads;
    uint32_t process;
    uint32_t stack;
    uint16_t top; // the highest of the offsets
    uint8_t strides;
    uint8_t by_rbp;
    union stride walk[STRIDES_MAX];
} __attribute__((aligned(64)));

_Static_assert(FAST_SLOTS_MAX % STRIDE == 0 && STRIDES_MAX <= UINT8_MAX, "filled up, they fit");
_Static_assert(offsetof(struct place, walk) == 64, "a cache line");

static LARGE struct place places[1 << PLACES_LOG2];

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

// All at once: each branch of its own would have to be learned anew, see HOT.
static inline bool is_others(const struct place *place, const struct fast_start *start,
                             uintptr_t caller) {
    uintptr_t other = (GET_BEFORE(place->pc) ^ start->pc) | (GET_BEFORE(place->rsp) ^ start->rsp) |
                      (GET_BEFORE(place->caller) ^ caller) |
                      (GET_BEFORE(place->unloads) ^ (uint32_t)module_unloads()) |
                      (GET_BEFORE(place->process) ^ ledger.header->process);
    uintptr_t other_rbp = GET_BEFORE(place->rbp) ^ start->rbp;
    return (other | (other_rbp & -(uintptr_t)GET_BEFORE(place->by_rbp))) != 0;
}

// On a function that reads them where another stack may be.
#define ANY_WORDS __attribute__((no_sanitize("address", "thread")))

static inline uint64_t mix(uint64_t sum, uint64_t word) {
    sum ^= word;
    return (sum << 23 | sum >> 41) * 0x9e3779b97f4a7c15u;
}

// Four, that do not wait for each other.
struct sums {
    uint64_t a, b, c, d;
};

ANY_WORDS static inline void mix_stride(struct sums *sums, const uintptr_t *stack,
                                        const union stride *at) {
#pragma GCC unroll 2
    for (int i = 0; i < STRIDE; i += 4) {
        sums->a = mix(sums->a, stack[at->offsets[i]]);
        sums->b = mix(sums->b, stack[at->offsets[i + 1]]);
        sums->c = mix(sums->c, stack[at->offsets[i + 2]]);
        sums->d = mix(sums->d, stack[at->offsets[i + 3]]);
    }
}

static inline uint64_t hash_of(const struct sums *sums) {
    return mix(mix(mix(sums->a, sums->b), sums->c), sums->d);
}

// The places are known to be of one walk before what stands there is read: below `top`.
ANY_WORDS static inline bool is_same(const struct place *place, uint32_t version,
                                     const uintptr_t *stack) {
    const union stride *next = place->walk, *end = next + GET_BEFORE(place->strides);
    struct sums sums = {0};
    do { // a walk that was remembered has one at least
        union stride at = {{GET_BEFORE(next->halves[0]), GET_BEFORE(next->halves[1])}};
        if (UNLIKELY(GET(place->version) != version))
            return false;
        __asm__("" : "+m"(at)); // each offset is a load; gcc would shift it out of a register
        mix_stride(&sums, stack, &at);
    } while (LIKELY(++next < end));
    return hash_of(&sums) == GET_BEFORE(place->words);
}

ANY_WORDS HOT uint32_t walk_known(const struct fast_start *start, const void *caller) {
    struct place *place = place_of(key_of(start, (uintptr_t)caller));
    __asm__("" : "+r"(place)); // gcc would compute each member's address anew
    uint32_t version = GET_BEFORE(place->version);
    if (UNLIKELY(version & 1) || UNLIKELY(is_others(place, start, (uintptr_t)caller)) ||
        UNLIKELY(GET_BEFORE(place->top) >= fast_readable_words(start->rsp)))
        return LEDGER_NO_STACK;
    uint32_t stack = GET_BEFORE(place->stack);
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    if (UNLIKELY(!is_same(place, version, (const uintptr_t *)start->rsp)) ||
        UNLIKELY(GET(place->version) != version))
        return LEDGER_NO_STACK;
    if (UNLIKELY(GET(place->missed)))
        SET(place->missed, 0);
    return stack;
}

// Filled up with the last one. Answers the hash of the words there, as they were walked.
static uint64_t put_slots(struct place *place, const struct fast_slots *walked) {
    struct sums sums = {0};
    for (uint32_t i = 0; i < walked->count; i += STRIDE) {
        static const union stride in_order = {.offsets = {0, 1, 2, 3, 4, 5, 6, 7}};
        uintptr_t words[STRIDE];
        union stride at;
        for (uint32_t j = 0; j < STRIDE; j++) {
            uint32_t from = i + j < walked->count ? i + j : walked->count - 1;
            at.offsets[j] = walked->offsets[from];
            words[j] = walked->values[from];
        }
        SET(place->walk[i / STRIDE].halves[0], at.halves[0]);
        SET(place->walk[i / STRIDE].halves[1], at.halves[1]);
        mix_stride(&sums, words, &in_order);
    }
    return hash_of(&sums);
}

void walk_remember(const struct fast_start *start, void *const *pcs, int depth, bool is_whole,
                   uint32_t id, uint32_t process) {
    uint64_t key = key_of(start, (uintptr_t)pcs[0]);
    struct place *place = place_of(key);
    uint32_t who = (uint32_t)(key >> 16) | 1;
    // Twice in a row, so that walks that take turns do not drive each other out.
    if (GET(place->missed) != who) {
        SET(place->missed, who);
        return;
    }
    SET(place->missed, 0);
    uint32_t unloads = (uint32_t)module_unloads();
    struct fast_slots walked;
    if (start->pc == 0 || valgrind_judges_reads() ||
        !fast_slots(start, pcs, depth, is_whole, &walked))
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
    SET(place->process, process);
    SET(place->stack, id);
    SET(place->strides, (uint8_t)((walked.count + STRIDE - 1) / STRIDE));
    SET(place->top, walked.offsets[walked.count - 1]); // the last return address: frames go up
    SET(place->words, put_slots(place, &walked));
    __atomic_store_n(&place->version, version + 2, __ATOMIC_RELEASE);
}
