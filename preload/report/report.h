// A report of this process: snapshot, verdicts, findings, text.
#ifndef SOCKLEAK_REPORT_REPORT_H
#define SOCKLEAK_REPORT_REPORT_H

#include "ledger/ledger_format.h"
#include <stdbool.h>

struct exhaustion;

// Looks at all sockets and writes the text report, where there is something to report: a leak, or
// verbosity=1, or `asked` (a live report that somebody requested). With a ledger file the snapshot
// goes into that, for the tool to read, and text is written only where `asked`, log_path or
// verbosity want it.
// `when` is the headline's words: "at exit of". Returns the number of leaked sockets.
// Signal-safe, under 4 KB of stack, leaves errno alone.
uint64_t report_make(enum ledger_ended ended, const char *when, bool asked);

// The same at a moment of exhaustion: text begins with what has run out, and is also written where
// nothing leaked; not beside a ledger file, unless log_path or verbosity want it. Fills in what the
// snapshot tells.
uint64_t report_make_exhausted(struct exhaustion *exhaustion);

// True where the last report found leaks and wrote nothing of them: the ledger's file tells.
bool report_was_left_to_file(void);

// One line of ours, "==PID== sockleak: note", where reports go.
void report_note(const char *note);

#endif
