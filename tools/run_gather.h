// After a command: the ledgers of all processes that ran, and a look at those that still do.
#ifndef SOCKLEAK_TOOLS_RUN_GATHER_H
#define SOCKLEAK_TOOLS_RUN_GATHER_H

#include "model.h"
#include "run_directory.h"

// Adds everything to `report`: the ledgers in the directory, descendants of this process that still
// run under the library, as they are now. What cannot be read is a note in the report. Nothing of
// the directory is needed afterwards.
void run_gather(struct report *report, const struct run_directory *directory);

#endif
