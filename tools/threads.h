// The threads of a live process: which system call each is blocked in, on which descriptor, since
// when, and the stack that led there. On request only (`dump --threads`), see thread_stacks.h.
#ifndef SOCKLEAK_TOOLS_THREADS_H
#define SOCKLEAK_TOOLS_THREADS_H

#include "model.h"
#include <sys/types.h>

// A thread as it was for a moment.
struct report_thread {
    uint32_t tid;
    const char *name;         // comm
    char state;               // 'S', 'R', 'D' ...: proc(5)
    int32_t call;             // number of the system call it is in; -1 for none
    const char *call_name;    // NULL not known
    int32_t fd;               // that the call waits on; -1 none
    uint64_t fd_inode;        // of a socket; else 0
    const char *fd_target;    // what /proc/PID/fd says of it
    uint32_t fd_count;        // of poll(2): descriptors that it waits on, where those are several
    int64_t blocked_ms;       // since it last ran; -1 not known
    const char *wait_channel; // function of the kernel; NULL not known
    struct report_stack *stack;
    const char *stack_problem; // why there is none, or NULL
    bool was_stopped;          // for its registers, for the blink of an eye
};

// Adds the threads to the process `pid` of the report, which report_observe() has put there.
// Between gathering and report_finish(): their stacks are named with the others. 0 or -errno.
int threads_add(struct report *report, pid_t pid);

// How a leaked socket is a thread's.
enum thread_relation { // mask
    THREAD_OPENED = 1 << 0,
    THREAD_READ_END = 1 << 1
};
uint32_t thread_relation(const struct report_thread *thread, const struct report_socket *socket);

#endif
