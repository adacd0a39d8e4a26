// Call sites: what became of the sockets that were opened at one stack (`struct report_site`).
#ifndef SOCKLEAK_TOOLS_SITES_H
#define SOCKLEAK_TOOLS_SITES_H

#include "model.h"

// Counts an open socket that is no connection, such as a listening one.
void sites_count_unjudged(const struct report_socket *socket);

// Counts the judged sockets at the sites where they were opened.
void sites_count_sockets(struct report *report);

// Once stacks have names: makes equal ones one, and sorts them: most leaked first, then most
// opened.
void sites_merge(struct report *report);

// What a histogram knows of the median: it lies in [from, to) milliseconds, to < 0 where the last
// bucket has no end. False where nothing was closed.
struct sites_median {
    double from_ms, to_ms;
};
bool sites_median(const struct report_site *site, struct sites_median *out);

// Text for people, "1.5-2 ms"; "-" where it is not known.
void sites_median_text(const struct report_site *site, char *out, size_t out_bytes);

#endif
