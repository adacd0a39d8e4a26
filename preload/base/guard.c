#include "base/guard.h"
#include "base/sys.h"
#include <signal.h>

enum {
    // Frames further apart than this are taken to be on two stacks, of which nothing can be told.
    STACK_MAX_BYTES = 8 << 20
};

HOT_THREAD_LOCAL volatile int guard_depth;
THREAD_LOCAL void *volatile guard_frame;

// A handler on the alternate stack interrupts a holder on another one: addresses say nothing there.
static bool is_gone(uintptr_t holder, uintptr_t frame) {
    stack_t alternate = {0};
    if (sys_call(SYS_sigaltstack, 0, (long)&alternate, 0, 0, 0, 0) < 0 ||
        (alternate.ss_flags & SS_ONSTACK))
        return false;
    if (!(alternate.ss_flags & SS_DISABLE) &&
        holder - (uintptr_t)alternate.ss_sp < alternate.ss_size)
        return true; // the holder was a handler, and no handler is running there now
    return frame >= holder && frame - holder < STACK_MAX_BYTES;
}

bool guard_still_held(const void *frame) {
    if (!is_gone((uintptr_t)guard_frame, (uintptr_t)frame))
        return true;
    guard_depth = 0;
    return false;
}
