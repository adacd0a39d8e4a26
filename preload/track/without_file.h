// What `sockleak run` is told of a process that keeps its ledger in private memory, where it was to
// be a file: below another root directory, or on a full disk. The ledger goes with the process.
// All functions: signal-safe, errno left alone, nothing where the ledger is a file, or should be
// none.
#ifndef SOCKLEAK_TRACK_WITHOUT_FILE_H
#define SOCKLEAK_TRACK_WITHOUT_FILE_H

#include <stdbool.h>
#include <stdint.h>

// The ledger was made. Not told of a child that a fork gave one: what it has is its parent's.
void without_file_begun(void);

// The process ends, behind its own report of so many leaked sockets.
void without_file_ended(uint64_t leaks);

// Before an exec, which takes the ledger along, and behind one that failed, with that answer.
bool without_file_execs(void);
void without_file_exec_failed(bool told);

#endif
