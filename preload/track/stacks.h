// Backtraces in the ledger, each distinct one once.
#ifndef SOCKLEAK_TRACK_STACKS_H
#define SOCKLEAK_TRACK_STACKS_H

#include <stdint.h>

// Captures the calling thread's stack from `caller` outwards (a hook's CALLER), at most the
// ledger's stack_depth frames, and returns its id. Where the unwinder is missing, or this thread is
// capturing already (the guard), the stack is `caller` alone, and counted. LEDGER_NO_STACK,
// counted, where the table is full. Lock-free, no malloc, leaves errno alone; needs a ledger.
uint32_t stack_capture(const void *caller);

#endif
