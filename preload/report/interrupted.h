// Which system call a signal interrupted: what the thread that now writes a report was doing
// before. /proc shows of that thread only what the report does itself.
#ifndef SOCKLEAK_REPORT_INTERRUPTED_H
#define SOCKLEAK_REPORT_INTERRUPTED_H

#include <stdbool.h>
#include <stdint.h>

// A system call of a thread, as far as it tells what the thread waits for.
struct thread_call {
    int32_t number; // -1: none, the thread is running
    int32_t fd;     // that it waits on, without a time limit of the call's own; -1 for none
};

// Which fd a call with these arguments waits on. `poll` of one descriptor without a time limit is a
// wait for that one. Reads the program's memory where it must, by process_vm_readv(2).
int32_t call_fd(int32_t number, const uint64_t arguments[3]);

// In a signal handler, with its third argument, before a report; and behind that. Nests: the
// innermost counts. Signal-safe.
void interrupted_begin(const void *ucontext);
void interrupted_end(void);

// What this thread was interrupted in; number -1 where it was running, or where this cannot be
// told. False outside of a handler.
bool interrupted_call(struct thread_call *out);

#endif
