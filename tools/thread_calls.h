// The system call that a thread is in: /proc/PID/task/TID/syscall (proc(5)), which costs it
// nothing.
#ifndef SOCKLEAK_TOOLS_THREAD_CALLS_H
#define SOCKLEAK_TOOLS_THREAD_CALLS_H

#include <stdint.h>
#include <sys/types.h>

struct thread_call {
    int32_t number; // -1: it is blocked in none; -2: it runs
    uint64_t arguments[6];
    uint64_t stack_pointer, counter; // 0 where it runs
};

// 0 or -errno: -EACCES without the right to trace it, -ESRCH where it has ended.
int thread_call_read(pid_t pid, pid_t tid, struct thread_call *out);

// "recvfrom"; NULL for one that does not wait for long.
const char *thread_call_name(int32_t number);

// What it waits on: a descriptor (else -1), or several of them (`count`, else 0), which are asked
// from the process's memory.
void thread_call_wait(pid_t pid, const struct thread_call *call, int32_t *fd, uint32_t *count);

#endif
