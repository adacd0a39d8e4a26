// The unwinder: return addresses of the calling thread. Which library does it is decided by linking
// (unwind_libunwind.c; tests link a fake).
#ifndef SOCKLEAK_TRACK_UNWINDER_H
#define SOCKLEAK_TRACK_UNWINDER_H

#include <stdbool.h>

// Loads the unwinder at its first call: dlopen, so not before it is needed, and not signal-safe the
// first time. One thread loads, others wait for at most 50 ms. Returns true where it is ready.
bool unwinder_ready(void);

// Stores the return addresses of the calling thread, innermost first, beginning with this
// function's own caller or nearer. Returns how many, at most `max`. After unwinder_ready() only,
// under the guard, with a ledger: its count of unloads says when to forget what was at an address.
// Does not malloc or use a file descriptor, takes no lock of the program's (see unwind_libunwind.c
// on how), leaves errno alone.
int unwinder_backtrace(void **out, int max);

// Why there is no unwinder, for the report: "" where there is one or it was not needed yet.
const char *unwinder_problem(void);

// In a forked child: what other threads were at will not be finished. Lets a load start again, and
// opens the unwinder's locks.
void unwinder_continue_in_child(void);

#endif
