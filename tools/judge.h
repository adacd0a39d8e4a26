// From what was gathered to verdicts: images of one process joined over exec, the verdicts of
// processes that made no last report, and what is one process's affair and not another's.
#ifndef SOCKLEAK_TOOLS_JUDGE_H
#define SOCKLEAK_TOOLS_JUDGE_H

#include "model.h"

// Orders the processes, sets record.snapshot.verdict and hints of all sockets, and drops sockets
// that are not this process's or no connection.
void judge_report(struct report *report, const struct report_options *options);

// Adds the hints that the snapshot's properties give.
void judge_property_hints(struct report_socket *socket);

#endif
