// Backtraces that were taken before from the same place: known again by the words on the stack that
// led from frame to frame, at a tenth of the cost of a walk. A thread that waits for events opens
// and closes all its sockets from a few stacks.
//
// Lock-free, no malloc, errno left alone, signal-safe; needs a ledger.
#ifndef SOCKLEAK_TRACK_WALKS_H
#define SOCKLEAK_TRACK_WALKS_H

#include "track/fast_unwind.h"
#include <stdbool.h>
#include <stdint.h>

// The id of the stack from `caller` outwards, or LEDGER_NO_STACK where it was not taken before.
// `start` is in the calling function.
uint32_t walk_known(const struct fast_start *start, const void *caller);

// The backtrace from there was `pcs`, `pcs[0]` being `caller`, and is the stack `id`. `is_whole`:
// the last one is of the outermost frame. Remembered where it was asked for twice in a row, and
// where the frames are plain all the way. `process` is the header's before the id was asked for.
// Under the guard.
void walk_remember(const struct fast_start *start, void *const *pcs, int depth, bool is_whole,
                   uint32_t id, uint32_t process);

#endif
