// Our JSON (format_json.c) back into a report. Foreign input like a ledger: what is missing or of
// another type counts as not known.
#ifndef SOCKLEAK_TOOLS_JSON_READER_H
#define SOCKLEAK_TOOLS_JSON_READER_H

#include "gather.h"

// Reads from fd, a regular file of `bytes`. Returns 0, or -EBADMSG, -EFBIG or -errno, said on
// stderr with `path`.
int json_reader_add(struct report *report, int fd, uint64_t bytes, const char *path);

#endif
