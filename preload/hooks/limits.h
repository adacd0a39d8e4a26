// What a limit that the program gives itself means for us, by whichever call. limits.c and
// syscall.c.
#ifndef SOCKLEAK_HOOKS_LIMITS_H
#define SOCKLEAK_HOOKS_LIMITS_H

#include <sys/types.h>

// Behind a call that has set a `resource` of process `pid` (0: this one) to `limit`, a struct
// rlimit or rlimit64, which are the same where we run; or NULL.
void limits_were_set(pid_t pid, int resource, const void *limit);

#endif
