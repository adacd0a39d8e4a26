#include "fake_unwinder.h"
#include "base/guard.h"
#include "track/unwinder.h"

__thread void *fake_stack[FAKE_STACK_MAX];
__thread int fake_stack_depth;
bool fake_unwinder_missing;
int fake_unwinder_calls;
bool fake_unwinder_was_guarded = true;

// Addresses in no module: they come out of the ledger as they went in.
enum {
    OWN_FRAMES = 0x1000,
    PROGRAM_FRAMES = 0x100000
};

void *fake_stack_set(int own, int depth, unsigned long outer) {
    for (int i = 0; i < own; i++)
        fake_stack[i] = (void *)(OWN_FRAMES + 16ul * (unsigned long)i);
    for (int i = 0; i < depth; i++)
        fake_stack[own + i] = (void *)(PROGRAM_FRAMES + 16ul * (unsigned long)i + (outer << 32));
    fake_stack_depth = own + depth;
    return fake_stack[own];
}

bool unwinder_ready(void) {
    return !fake_unwinder_missing;
}

int unwinder_backtrace(void **out, int max) {
    __atomic_fetch_add(&fake_unwinder_calls, 1, __ATOMIC_RELAXED);
    if (!guard_held())
        fake_unwinder_was_guarded = false;
    int depth = fake_stack_depth < max ? fake_stack_depth : max;
    for (int i = 0; i < depth; i++)
        out[i] = fake_stack[i];
    return depth;
}

const char *unwinder_problem(void) {
    return fake_unwinder_missing ? "there is no unwinder in this test" : "";
}

void unwinder_continue_in_child(void) {}
