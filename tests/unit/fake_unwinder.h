// An unwinder that answers what the test says: track/unwinder.h, linked in place of libunwind's.
#ifndef SOCKLEAK_TESTS_UNIT_FAKE_UNWINDER_H
#define SOCKLEAK_TESTS_UNIT_FAKE_UNWINDER_H

#include <stdbool.h>

enum {
    FAKE_STACK_MAX = 512
};

// One for each thread. `missing` belongs to the process: libunwind could not be loaded.
extern __thread void *fake_stack[FAKE_STACK_MAX];
extern __thread int fake_stack_depth;
extern bool fake_unwinder_missing;

// How often it was asked for a backtrace; and whether the guard was held each time.
extern int fake_unwinder_calls;
extern bool fake_unwinder_was_guarded;

// A stack of `depth` frames: `outer` further out, and at the front `own` frames that belong to the
// library. Returns the address of the first frame behind those: the hook's CALLER.
void *fake_stack_set(int own, int depth, unsigned long outer);

#endif
