// Why sockets were not closed (report/cause.h): what the tools know beyond the library, which
// judges its own process only.
#ifndef SOCKLEAK_TOOLS_CAUSES_H
#define SOCKLEAK_TOOLS_CAUSES_H

#include "model.h"

// Gives each judged socket its cause, in snapshot.cause. Of a process that was looked at from
// outside, asks /proc what the sockets' threads do now. After sites_count_sockets().
void causes_find(struct report *report);

// Gives each finding its cause, with the sentence. After group_sockets().
void causes_explain(struct report *report);

#endif
