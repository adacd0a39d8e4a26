// Names and lines for the stacks of a report, by elfutils' libdw.
#ifndef SOCKLEAK_TOOLS_SYMBOLIZE_H
#define SOCKLEAK_TOOLS_SYMBOLIZE_H

#include "model.h"

// Gives frames to all stacks of sockets. One file is open at a time. With `progress`, says so on
// stderr when it takes longer than a second and stderr is a terminal.
void symbolize_report(struct report *report, bool progress);

// Marks as hidden the frames by which the C library started the program or the thread, and those of
// our library.
void symbolize_hide_frames(struct report_stack *stack);

#endif
