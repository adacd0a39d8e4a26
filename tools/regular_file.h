// Files whose names come from a ledger, or lie where others may put them.
#ifndef SOCKLEAK_TOOLS_REGULAR_FILE_H
#define SOCKLEAK_TOOLS_REGULAR_FILE_H

#include <stdint.h>

// Opens a regular file for reading; `flags` may be O_NOFOLLOW. Returns the descriptor, or -errno:
// -EINVAL where it is something else, which is then not opened (a fifo would hold us up, and a
// device may act on being opened, as watchdogs and tapes do). `bytes` may be NULL.
int regular_file_open(const char *path, int flags, uint64_t *bytes);

#endif
