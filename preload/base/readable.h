// Whether memory of this process can be read, asked of the kernel instead of tried.
#ifndef SOCKLEAK_BASE_READABLE_H
#define SOCKLEAK_BASE_READABLE_H

#include "base/sys.h"
#include <errno.h>
#include <stdbool.h>

// True where all bytes from `at` on are readable now. One system call a page, none for no bytes.
// Signal-safe, leaves errno alone.
static inline bool readable(const void *at, size_t bytes) {
    enum {
        PAGE = 4096, // or a multiple
        WORD = 8
    };
    uintptr_t first = (uintptr_t)at, end = first + bytes;
    if (end < first)
        return false;
    // The kernel copies a signal set of 8 bytes before it looks at `how`: EFAULT says that it
    // cannot, EINVAL for a `how` that does not exist that it could (kernel/signal.c,
    // rt_sigprocmask).
    for (uintptr_t word = first & ~(uintptr_t)(WORD - 1); word < end;
         word = (word & ~(uintptr_t)(PAGE - 1)) + PAGE)
        if (sys_call(SYS_rt_sigprocmask, ~0L, (long)word, 0, WORD, 0, 0) != -EINVAL)
            return false;
    return true;
}

#endif
