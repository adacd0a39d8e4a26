// Ledger bytes into a report. A ledger is foreign input: it may be cut, torn, or made to hurt.
// Every number is checked against what is there, sizes are capped at what the library ever makes,
// and what is left out is noted in the process.
#ifndef SOCKLEAK_TOOLS_LEDGER_READER_H
#define SOCKLEAK_TOOLS_LEDGER_READER_H

#include "gather.h"

// 0, or -EBADMSG where it is no ledger, or what `source` returned; said on stderr.
int ledger_reader_add(struct report *report, const struct ledger_source *source);

// Does a file that starts with these bytes look like a ledger?
bool ledger_reader_knows(const void *bytes, size_t len_bytes);

#endif
