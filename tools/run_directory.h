// Where the processes of a run leave their ledgers.
#ifndef SOCKLEAK_TOOLS_RUN_DIRECTORY_H
#define SOCKLEAK_TOOLS_RUN_DIRECTORY_H

#include <limits.h>

struct run_directory {
    char path[PATH_MAX]; // absolute
    char keep[PATH_MAX]; // where the ledgers go in the end; "" when they are removed
};

// Makes a directory that only this user may read: in memory (tmpfs) where there is such a place, or
// below `keep`, which is made where it is missing, and may serve several runs at a time. NULL for
// none. Where a file of keep's file system must not be mapped (ledger/file_system.h) the directory
// is elsewhere until the end. Returns 0, or -errno having said why.
int run_directory_make(struct run_directory *out, const char *keep);

// A descriptor that can be read, without blocking, when a process has begun a ledger there; -1
// where the kernel has none left (inotify(7)). The caller closes it.
int run_directory_watch(const struct run_directory *directory);

// Removes it and what is in it; kept ledgers are moved to their place first. Says what goes wrong.
void run_directory_end(const struct run_directory *directory);

#endif
