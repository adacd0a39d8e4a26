// Whether memory of this process can be read, asked of the kernel instead of tried.
#ifndef SOCKLEAK_BASE_READABLE_H
#define SOCKLEAK_BASE_READABLE_H

#include "base/sys.h"
#include "base/valgrind.h"
#include <errno.h>
#include <stdbool.h>
#include <sys/uio.h>

// The kernel copies a signal set of 8 bytes before it looks at `how`: EFAULT says that it cannot,
// EINVAL for a `how` that does not exist that it could (kernel/signal.c, rt_sigprocmask).
static inline bool readable_word(uintptr_t word) {
    return sys_call(SYS_rt_sigprocmask, ~0L, (long)word, 0, sizeof(uint64_t), 0, 0) == -EINVAL;
}

// valgrind would take that for an error of the program's. What process_vm_readv(2) reads there it
// does not look at; but sandboxes often forbid it.
static inline bool readable_word_on_valgrind(uintptr_t word) {
    uint64_t copy;
    struct iovec here = {&copy, sizeof copy};
    struct iovec there = {(void *)word, sizeof copy}; // NOLINT(performance-no-int-to-ptr)
    return sys_call(SYS_process_vm_readv, sys_getpid(), (long)&here, 1, (long)&there, 1, 0) ==
           sizeof copy;
}

// True where all bytes from `at` on are readable now. One system call a page, none for no bytes.
// Signal-safe, leaves errno alone.
static inline bool readable(const void *at, size_t bytes) {
    enum {
        PAGE = 4096, // or a multiple
        WORD = sizeof(uint64_t)
    };
    uintptr_t first = (uintptr_t)at, end = first + bytes;
    if (end < first)
        return false;
    bool on_valgrind = valgrind_runs();
    for (uintptr_t word = first & ~(uintptr_t)(WORD - 1); word < end;
         word = (word & ~(uintptr_t)(PAGE - 1)) + PAGE)
        if (!(on_valgrind ? readable_word_on_valgrind(word) : readable_word(word)))
            return false;
    return true;
}

#endif
