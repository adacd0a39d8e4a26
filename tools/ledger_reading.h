// What ledger_reader.c and ledger_stacks_reader.c share: a ledger that is being read. All that is
// in it may be wrong, see ledger_format.h.
#ifndef SOCKLEAK_TOOLS_LEDGER_READING_H
#define SOCKLEAK_TOOLS_LEDGER_READING_H

#include "model.h"

struct ledger_reading {
    struct report *report;
    const struct ledger_source *source;
    struct report_process *process;
    struct ledger_header header;
    uint64_t counts[LEDGER_REGIONS]; // elements that are there to be read
    uint32_t *fds;
    struct ledger_stack *stacks;
    uint64_t *frames;
    struct ledger_module *modules;
    char *strings;
    struct ledger_destination *destinations;
    struct report_module **known_modules; // by number; NULL not looked at
    struct report_stack **known_stacks;   // by id
    uint32_t *first_fd;                   // by record number: fd + 1
    uint32_t *next_fd;                    // by fd: fd + 1
    uint64_t depths;                      // of the stacks so far
    uint64_t minute_end_ns;               // of "the last 60 s", CLOCK_MONOTONIC
    uint32_t sockets_room;
};

// Notes, once, that the ledger is incomplete.
void ledger_reading_damaged(struct ledger_reading *reader, const char *what);

// The stack of an id; NULL for none, and for a damaged one.
struct report_stack *ledger_reading_stack(struct ledger_reading *reader, uint32_t id);

// Adds the call sites and the destinations.
void ledger_reading_sites(struct ledger_reading *reader);

#endif
