// Beside the wait for a command: looks at its processes from outside, at an interval, and as soon
// as one has a socket in CLOSE_WAIT for too long. In a thread of its own, so that signals are
// passed on while symbols are read.
#ifndef SOCKLEAK_TOOLS_WATCH_RUN_H
#define SOCKLEAK_TOOLS_WATCH_RUN_H

#include "format_options.h"
#include "run_directory.h"
#include <stdint.h>

struct watch_run_options {
    uint64_t interval_ms;   // 0: none
    uint64_t leak_after_ms; // 0: none
    const struct format_options *shared;
    const struct run_directory *directory;
};

struct watch_run;

// Call it where all signals are blocked: its thread must take none. Writes to stderr. NULL where
// there is nothing to do, or no thread to be had (said so). The options must stay.
struct watch_run *watch_run_start(const struct watch_run_options *options);

// Ends the thread, after a look that it is in. Until then nobody else may gather a report.
void watch_run_stop(struct watch_run *watch); // NULL is allowed

#endif
