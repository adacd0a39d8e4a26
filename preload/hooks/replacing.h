// dup2 and dup3 over a descriptor, whichever way they were called.
#ifndef SOCKLEAK_HOOKS_REPLACING_H
#define SOCKLEAK_HOOKS_REPLACING_H

#include <stdint.h>

struct replacement {
    uint32_t copied, replaced; // held records
};

// Before the call: `to` is closed by it, and its socket off the table until the result is known.
// Onto itself dup2 does nothing, and dup3 fails.
struct replacement replacing_begin(int fd, int to, const void *caller);

// After it. Returns `result`.
int replacing_done(struct replacement replacement, int fd, int to, int result);

#endif
