// The parts of our JSON that format_json_sites.c writes.
#ifndef SOCKLEAK_TOOLS_JSON_SITES_READER_H
#define SOCKLEAK_TOOLS_JSON_SITES_READER_H

#include "model.h"
#include <jansson.h>

// Adds the document's call sites, destinations and kernel's counts to the report. Documents of
// older versions have none.
void json_sites_read(struct report *report, const json_t *document);

#endif
