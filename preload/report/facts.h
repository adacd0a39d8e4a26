// What the kernel says of one open socket.
#ifndef SOCKLEAK_REPORT_FACTS_H
#define SOCKLEAK_REPORT_FACTS_H

#include "ledger/ledger_format.h"
#include <stdbool.h>

// Fills in the record's snapshot, its addresses, and its family, type and protocol where they were
// not known, for the socket at record->first_fd. Some ten system calls, none of which touches the
// socket's data, options or pending error. Signal-safe.
void facts_look_at(struct ledger_record *record);

// Whether the kernel did not answer what a verdict needs, behind facts_look_at().
bool facts_are_missing(const struct ledger_record *record);

// Fills in the snapshot's properties, behind facts_look_at(). Five system calls more, of the same
// kind: for the sockets that are reported.
void facts_look_at_properties(struct ledger_record *record);

#endif
