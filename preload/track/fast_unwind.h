// Backtraces of stacks whose frames are all plain (frame_rules.h), three times as fast as
// libunwind's: one look-up and two loads a frame. libunwind teaches it: a frame's rule is believed
// where it has once led to the caller that libunwind found from the same place, and a stack with
// any other frame is left to libunwind. x86-64; elsewhere everything is.
//
// Lock-free, no malloc, errno left alone, signal-safe; under the guard.
#ifndef SOCKLEAK_TRACK_FAST_UNWIND_H
#define SOCKLEAK_TRACK_FAST_UNWIND_H

#include "base/compiler.h"
#include <stdbool.h>
#include <stdint.h>

// Where to begin: in a function that is still running.
struct fast_start {
    uintptr_t pc, rsp, rbp;
};

#if defined(__x86_64__)
#define FAST_START(start)                                                                          \
    __asm__ volatile("leaq 0f(%%rip), %0\n0:\n\tmovq %%rsp, %1\n\tmovq %%rbp, %2"                  \
                     : "=r"((start).pc), "=r"((start).rsp), "=r"((start).rbp))
#else
#define FAST_START(start) ((start) = (struct fast_start){0})
#endif

// Stores the return addresses from the caller of the start's function outwards: at most `max`.
// Returns how many, or 0 where it cannot tell; *learn then says whether fast_learn() may help.
// `unloads` is module_unloads().
int fast_backtrace(const struct fast_start *start, void **out, int max, uint64_t unloads,
                   bool *learn);

// `pcs` are the same addresses, by libunwind: `depth` of them, cut where that is `max`.
void fast_learn(const struct fast_start *start, void *const *pcs, int depth, int max);

// --- for walks.c --------------------------------------------------------------------------------

enum {
    FAST_SLOTS_MAX = 96
};

// The words on the stack that a walk depends on, in the order in which it reads them. `offsets` are
// in words from the start's rsp. `by_rbp`: it also depends on the start's rbp.
struct fast_slots {
    uint32_t count;
    bool by_rbp;
    uint16_t offsets[FAST_SLOTS_MAX];
    uintptr_t values[FAST_SLOTS_MAX];
};

// False where the walk from the start does not come to `pcs`, all `depth` of them and, with
// `is_whole`, the end; or depends on more words.
bool fast_slots(const struct fast_start *start, void *const *pcs, int depth, bool is_whole,
                struct fast_slots *out);

// The stack from fast_readable_from to fast_readable_to could be read when this thread last asked.
extern THREAD_LOCAL uintptr_t fast_readable_from, fast_readable_to;

// How many words from `rsp` on; 0 where it is not in there.
static inline uintptr_t fast_readable_words(uintptr_t rsp) {
    return LIKELY(rsp >= fast_readable_from) && LIKELY(rsp < fast_readable_to)
               ? (fast_readable_to - rsp) / sizeof(uintptr_t)
               : 0;
}

#endif
