// What the library recorded, as a test program under it sees: its own ledger, read through the
// exported symbol sockleak_ledger_locator. Kernel truth stands beside it, never behind it.
#ifndef SOCKLEAK_TESTS_LEDGER_VIEW_H
#define SOCKLEAK_TESTS_LEDGER_VIEW_H

#include "ledger/ledger_format.h"
#include <stdbool.h>

// NULL while there is none.
const struct ledger_header *view_ledger(void);

// The number of the record of an fd, 0 for none.
uint32_t view_number(int fd);

// The record of an fd, or NULL.
const struct ledger_record *view_record(int fd);

// The inode of an fd, as the kernel tells it; 0 for a closed one.
uint64_t view_inode(int fd);

// True where the fd has a record and its inode is the kernel's, or was not asked for yet (in a
// process that has opened many: preload/track/unasked.h).
bool view_is_tracked(int fd);

// How many fds have a record.
unsigned view_tracked_fds(void);

const struct ledger_stack *view_stack(uint32_t id);

// The address of a stack's frame, as it is in this process; 0 behind the last.
uintptr_t view_frame(uint32_t stack, unsigned index);

// A function whose addresses are known: it has a section of its own, so that a frame can be matched
// with it without symbols. Use the call's result behind the call, or it becomes a jump.
#define SITE(name) __attribute__((noinline, section("site_" #name)))

// Declares the range of SITE(name), for IN_SITE below; at file scope.
#define SITE_RANGE(name) extern const char __start_site_##name[], __stop_site_##name[]
#define IN_SITE(name, address)                                                                     \
    ((uintptr_t)(address) > (uintptr_t)__start_site_##name &&                                      \
     (uintptr_t)(address) <= (uintptr_t)__stop_site_##name)

// Keeps the compiler from seeing what becomes of a value.
#define USE(value) __asm__ volatile("" : "+r"(value) : : "memory")

#endif
