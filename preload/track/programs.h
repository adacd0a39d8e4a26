// The programs that this process becomes or starts: under `sockleak run`, what cannot be watched is
// marked in the ledger directory before it runs, and the ledger says that an exec is under way.
//
// All of it: raw system calls, no allocation, errno left alone. In a signal handler and in a vfork
// child, which marks, but leaves the ledger to its parent. Without the option ledger_dir nothing is
// done but for the counter of forks. A process in a sandbox marks nothing (base/owner.h).
#ifndef SOCKLEAK_TRACK_PROGRAMS_H
#define SOCKLEAK_TRACK_PROGRAMS_H

#include "base/program.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// How the program is named.
enum program_search {
    SEARCH_NOTHING, // a path
    SEARCH_PATH     // a name without a slash is looked for in PATH; what is no binary is run by sh
};

struct program_call {
    int dir; // AT_FDCWD, or execveat's
    const char *path;
    int flags; // execveat's
    char *const *environment;
    enum program_search search;
};

// An exec that may fail: what is to be taken back then.
struct program_exec {
    uint64_t began_ns; // 0: the ledger was not told
    uint32_t mark;     // 0: none was left
    bool told_without_file;
};

// Before and after an exec; after is where it failed.
struct program_exec program_exec_begin(const struct program_call *call);
void program_exec_failed(const struct program_exec *exec);

// Before and after posix_spawn, or what the C library starts for system and popen: `pid` is the
// child, 0 where it is not known, negative where there is none. `moves`: the child may change its
// directory before it looks for the program.
void program_spawn_begin(const struct program_call *call, bool moves, struct program *out);
void program_spawn_done(const struct program *program, pid_t pid);

#endif
