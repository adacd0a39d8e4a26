// The parts of our JSON that format_json_sites.c writes.
#ifndef SOCKLEAK_TOOLS_JSON_SITES_READER_H
#define SOCKLEAK_TOOLS_JSON_SITES_READER_H

#include "model.h"
#include <jansson.h>

// How json_reader.c reads what both need.
struct json_sites_tools {
    struct report_stack *(*stack)(struct report *report, const json_t *call);
    struct ledger_address (*address)(const char *text);
    uint8_t (*call)(const char *name);
};

// Adds the document's call sites, destinations and kernel's counts to the report. Documents of
// older versions have none.
void json_sites_read(struct report *report, const json_t *document,
                     const struct json_sites_tools *tools);

#endif
