// A limit on memory that the program gives itself, by whichever call. limits.c and syscall.c.
#ifndef SOCKLEAK_HOOKS_LIMITS_H
#define SOCKLEAK_HOOKS_LIMITS_H

#include <stdbool.h>

// Before a call that may set `resource` of this process, and behind it. A forked child takes its
// ledger over before, when it still has the memory for that. The answer of the first goes into the
// second, which asks the kernel what the limit is now: the call's own arguments may be gone.
bool limits_before(int resource);
void limits_after(bool begun, bool succeeded);

// Behind an mlockall that has failed with `error`; `begun` is of tracker_has_ledger() before it.
// True where it is worth another try.
bool limits_after_locking(bool begun, int error);

#endif
