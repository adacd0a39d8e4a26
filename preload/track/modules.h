// Which file an address of code belongs to, as recorded in the ledger.
#ifndef SOCKLEAK_TRACK_MODULES_H
#define SOCKLEAK_TRACK_MODULES_H

#include <stdint.h>

// A return address as a frame of the ledger: module and offset. The module is recorded the first
// time. An address in no module (a JIT's) is kept plain, and so is all where the table is full.
// Lock-free, no malloc; signal-safe where the C library has _dl_find_object (glibc 2.35), else it
// takes the loader's lock.
uint64_t module_frame(const void *address);

// Says that dlclose was called: what is at an address may be another file from now on.
void module_unloaded(void);

// Grows with each dlclose. A frame that was resolved at another count may be another file's now.
uint64_t module_unloads(void);

#endif
