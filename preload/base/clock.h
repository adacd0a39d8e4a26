// Time, as the ledger counts it.
#ifndef SOCKLEAK_BASE_CLOCK_H
#define SOCKLEAK_BASE_CLOCK_H

#include <stdint.h>

// Finds the kernel's clock_gettime in the vDSO, else libc's own: not through the global scope,
// where libfaketime and its like put theirs. Not signal-safe (dlsym); before it has run, the clock
// is read by a system call.
void clock_init(void);

// Nanoseconds of CLOCK_MONOTONIC. Through the vDSO: no system call. Signal-safe.
uint64_t clock_now_ns(void);

// Nanoseconds since the epoch, CLOCK_REALTIME. Signal-safe.
uint64_t clock_epoch_ns(void);

#endif
