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

// Removes the queue. Also the one of a directory that another run left behind.
void run_notices_end(const char *ledger_dir);

// What was taken so far of processes without a ledger file.
struct run_notices;
struct run_notices *run_notices_new(void);
void run_notices_free(struct run_notices *notices); // NULL is allowed

// Takes what has come, so that the queue does not fill up. What has run out is said on the standard
// error at once, where `is_told`.
void run_notices_take(struct run_notices *notices, const struct run_directory *directory,
                      bool is_told);

// Takes the last ones: a note in the report for each process that leaked, or ended without a report
// of its own. Returns how many sockets they leaked.
uint64_t run_notices_gather(struct run_notices *notices, struct report *report,
                            const struct run_directory *directory);

// Has any process been without a ledger file, and had sockets?
bool run_notices_any(const struct run_notices *notices);

#endif
