// The stacks of another process's threads, by libunwind.
//
// A thread that is blocked is left alone: /proc tells where it is and where its stack is, which
// does not change while it is blocked, and mostly that is enough. Where a frame can only be found
// by a register, the thread is stopped (PTRACE_SEIZE and PTRACE_INTERRUPT, ptrace(2)) for as long
// as it takes to copy its registers and its stack, well below a millisecond, and unwound after
// that. A call that never restarts then fails with EINTR, as after any stop: signal(7) lists them,
// epoll_wait among them. Should this process die meanwhile, the kernel lets the thread go on.
#ifndef SOCKLEAK_TOOLS_THREAD_STACKS_H
#define SOCKLEAK_TOOLS_THREAD_STACKS_H

#include "threads.h"

// Fills in `stack` or `stack_problem`, and was_stopped. 0 or -errno.
int thread_stacks_take(struct report *report, pid_t pid, struct report_thread *threads,
                       uint32_t count);

#endif
