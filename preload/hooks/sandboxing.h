// What prctl and its system call numbers share: the program puts itself under seccomp(2).
#ifndef SOCKLEAK_HOOKS_SANDBOXING_H
#define SOCKLEAK_HOOKS_SANDBOXING_H

#include <stdbool.h>

// Before and after a call that installs a filter or the strict mode. From the first on nothing of
// ours makes a system call, since other threads may be under the filter before the call returns;
// where it failed everything goes on. The answer of the first goes into the second. Signal-safe.
bool sandboxing_begin(void);
void sandboxing_done(bool begun, bool succeeded);

#endif
