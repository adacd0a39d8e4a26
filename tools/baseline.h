// A baseline: an earlier report in our JSON. Its findings are known, and fail nothing.
#ifndef SOCKLEAK_TOOLS_BASELINE_H
#define SOCKLEAK_TOOLS_BASELINE_H

#include "model.h"

// Marks findings of `report` that are in the report of `path`, by fingerprint. Returns 0 or -errno,
// said on stderr.
int baseline_apply(struct report *report, const char *path);

#endif
