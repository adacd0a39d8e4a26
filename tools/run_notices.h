// Notices from watched processes (base/notice.h). Of those that could leave no ledger, what they
// leaked is in their own reports, and counts for this run. Where something has run out, it is told
// while the command runs.
#ifndef SOCKLEAK_TOOLS_RUN_NOTICES_H
#define SOCKLEAK_TOOLS_RUN_NOTICES_H

#include "model.h"
#include "run_directory.h"
#include <stdbool.h>
#include <stdint.h>

// Makes the queue. Without one (a kernel or a sandbox that has none) nothing can come.
void run_notices_begin(const struct run_directory *directory);

// Takes what has run out, and says it on the standard error where `is_told`.
void run_notices_tell(const struct run_directory *directory, bool is_told);

// Takes all others: a note in the report for each process. Returns how many sockets they leaked.
uint64_t run_notices_gather(struct report *report, const struct run_directory *directory);

// Removes the queue. Also the one of a directory that another run left behind.
void run_notices_end(const char *ledger_dir);

#endif
