// The threads of a dumped process, as text and as JSON.
#ifndef SOCKLEAK_TOOLS_FORMAT_THREADS_H
#define SOCKLEAK_TOOLS_FORMAT_THREADS_H

#include "format.h"
#include "text_lines.h"

// Those with leaked sockets first, then those blocked on a socket; equal others are counted.
// Of the sockets of each, at most `max_sockets` are listed. Nothing for a process whose threads
// were not asked for.
void format_threads(const struct report_process *process, struct text_lines *lines,
                    uint32_t max_sockets);

// NULL where they were not asked for.
json_t *format_json_threads(const struct report_process *process);

#endif
