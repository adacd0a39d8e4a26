// Which other processes have a leaked socket open, too: then one close is not enough.
#ifndef SOCKLEAK_TOOLS_HOLDERS_H
#define SOCKLEAK_TOOLS_HOLDERS_H

#include "model.h"

// Looks through the descriptors of all processes that run now, once; only where there is a leak.
void holders_find_processes(struct report *report);

// Looks through the ledgers of the report's own processes, as they were at their ends.
void holders_find_ledgers(struct report *report);

#endif
