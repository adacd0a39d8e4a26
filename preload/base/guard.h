// The guard: "this thread is inside sockleak".
//
// While it is held, no stack is captured: a signal handler that interrupts a capture, or
// libunwind's own calls, would enter libunwind a second time. Sockets are tracked all the same,
// with the call site for a stack. It is a counter, so it nests; it belongs to one thread, and a
// fork copies it.
//
// A handler that leaves by siglongjmp what it interrupted takes away the frame that would have
// given the guard back. So the outermost holder's frame is remembered: a frame further out that
// finds the guard held knows that it is not.
#ifndef SOCKLEAK_BASE_GUARD_H
#define SOCKLEAK_BASE_GUARD_H

#include "base/compiler.h"
#include <stdbool.h>

extern THREAD_LOCAL volatile int guard_depth;
extern THREAD_LOCAL void *volatile guard_frame; // of the outermost holder

// Inlined, so that the frame is the caller's.
#define GUARD_INLINE static inline __attribute__((always_inline))

GUARD_INLINE void guard_enter(void) {
    if (guard_depth == 0)
        guard_frame = __builtin_frame_address(0); // before it counts: a handler looks at both
    guard_depth++;
}

GUARD_INLINE void guard_leave(void) {
    if (guard_depth > 0)
        guard_depth--;
}

// Gives the guard back where its holder's frame is gone, as seen from `frame`. True where it is
// not.
bool guard_still_held(const void *frame);

GUARD_INLINE bool guard_held(void) {
    return UNLIKELY(guard_depth > 0) && guard_still_held(__builtin_frame_address(0));
}

#endif
