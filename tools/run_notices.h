// Notices from processes that could leave no ledger (base/notice.h): what they leaked is in their
// own reports, and counts for this run.
#ifndef SOCKLEAK_TOOLS_RUN_NOTICES_H
#define SOCKLEAK_TOOLS_RUN_NOTICES_H

#include "model.h"
#include "run_directory.h"
#include <stdint.h>

// Makes the queue. Without one (a kernel or a sandbox that has none) nothing can come.
void run_notices_begin(const struct run_directory *directory);

// Takes all of them: a note in the report for each process. Returns how many sockets they leaked.
uint64_t run_notices_gather(struct report *report, const struct run_directory *directory);

// Removes the queue. Also the one of a directory that another run left behind.
void run_notices_end(const char *ledger_dir);

#endif
