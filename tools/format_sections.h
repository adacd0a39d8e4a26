// Sections of the text report that are asked for, or speak up by themselves. Tables begin with
// a blank line. `pid` is that of the ==PID== before the lines.
#ifndef SOCKLEAK_TOOLS_FORMAT_SECTIONS_H
#define SOCKLEAK_TOOLS_FORMAT_SECTIONS_H

#include "model.h"
#include "text_lines.h"

// The table of call sites.
void format_sites(const struct report *report, struct text_lines *lines, uint32_t pid);

// TIME_WAIT, where it matters or is asked for; false where it is neither.
bool format_time_wait(const struct report *report, struct text_lines *lines, uint32_t pid,
                      bool is_asked_for);

// What calls returned because something was exhausted, as notes.
void format_exhaustion(const struct report *report, struct text_lines *lines, uint32_t pid);

// How the connection of a socket ended, step by step, as a drawing.
void format_explain(const struct report_socket *socket, struct text_lines *lines, uint32_t pid);

// "handle_request  server.c:54": the frame to point at, in `out`.
void format_place(const struct report_stack *stack, char *out, size_t out_bytes);

#endif
