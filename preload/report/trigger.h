// When a report is made: at each end of the process, at a signal; and only once at a time.
#ifndef SOCKLEAK_REPORT_TRIGGER_H
#define SOCKLEAK_REPORT_TRIGGER_H

#include "ledger/ledger_format.h"
#include <stdbool.h>

struct exhaustion;

// Called by the constructor: registers with exit and quick_exit. Not signal-safe.
void trigger_install(void);

// Called at a process's first socket event: says what is wrong with the options.
void trigger_first_birth(void);

// The process ends now, with `status`. Makes the last report, the first time it is called (others
// wait until it is written, at most 2 seconds). Returns the status to end with: `status`, or the
// option exitcode where the process leaked. Signal-safe.
int trigger_end(enum ledger_ended ended, int status, const char *when);

// A report of the running process. Skipped, and counted, while another is being written.
void trigger_live(const char *when);

// A report of the running process at a moment of exhaustion. Returns false where another is being
// written: then this one was skipped, and counted.
bool trigger_exhausted(struct exhaustion *exhaustion);

// quick_exit was called: its handlers are not told the status, and ours will want it.
void trigger_expect_quick_exit(int status);

#endif
