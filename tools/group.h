// Sockets into findings, and equal findings of several processes into one.
#ifndef SOCKLEAK_TOOLS_GROUP_H
#define SOCKLEAK_TOOLS_GROUP_H

#include "model.h"

// Makes process->findings of process->sockets, and the processes' totals. Stacks need no names yet.
void group_sockets(struct report *report);

// Gives each finding its fingerprint. Needs frames.
void group_fingerprint(struct report *report);

// Makes report->classes and the summary. Needs frames, suppressions and baseline.
void group_merge(struct report *report);

// The same for stacks that are shown alike, be they of a ledger or of a JSON document. Needs
// frames.
uint64_t group_identity(const struct report_stack *stack);

#endif
