// "sockleak: reading symbols: 40 % (3 s)" on a terminal, for work that takes longer than a second.
// A thread shows it, so that it also moves on while a single step takes long.
#ifndef SOCKLEAK_TOOLS_PROGRESS_H
#define SOCKLEAK_TOOLS_PROGRESS_H

#include <stddef.h>

struct progress;

// NULL, which the others take, where stderr is no terminal. `what` must stay.
struct progress *progress_start(const char *what);

// So far; from one thread.
void progress_set(struct progress *progress, size_t done, size_t all);

// Wipes the line away.
void progress_end(struct progress *progress);

#endif
