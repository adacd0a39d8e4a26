// The guard: "this thread is inside sockleak".
//
// While it is held, no stack is captured: a signal handler that interrupts a capture, or
// libunwind's own calls, would enter libunwind a second time. Sockets are tracked all the same,
// with the call site for a stack. It is a counter, so it nests; it belongs to one thread, and a
// fork copies it.
#ifndef SOCKLEAK_BASE_GUARD_H
#define SOCKLEAK_BASE_GUARD_H

#include "base/compiler.h"
#include <stdbool.h>

extern THREAD_LOCAL volatile int guard_depth;

static inline void guard_enter(void) {
    guard_depth++;
}

static inline void guard_leave(void) {
    guard_depth--;
}

static inline bool guard_held(void) {
    return guard_depth > 0;
}

#endif
