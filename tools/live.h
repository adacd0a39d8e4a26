// Live processes, looked at from outside: which sockets they have open (/proc/PID/fd), and what the
// kernel knows of each (sock_diag). No process is stopped or signalled.
//
// Several processes are looked at together, so that the kernel's tables are asked for once. Its
// answer comes after the lists of descriptors: a socket that is in a list and in no table is then
// closed meanwhile, no TCP socket, or one that no table holds because it is not connected.
#ifndef SOCKLEAK_TOOLS_LIVE_H
#define SOCKLEAK_TOOLS_LIVE_H

#include "model.h"
#include <sys/types.h>

struct live_process {
    pid_t pid, parent_pid;
    uint64_t start_time_ticks;
    uint64_t now_ns;       // when the kernel was asked; 0 where it could not be
    int kernel_error;      // why not; -errno
    uint32_t fin_read;     // of its sockets in CLOSE_WAIT: end of stream was consumed
    uint32_t fin_not_read; // and not
    bool opened_nothing;   // set by whoever knows it: it is watched, and opened no socket itself
    bool has_its_ledger;   // the same: the one that was read is of the program that it runs now
    uint32_t not_accepted; // in CLOSE_WAIT, in the accept queues of its listening sockets
    struct report_socket_facts *sockets;
    uint32_t socket_count;
    int32_t *fds;        // of all sockets
    char *exe, *cmdline; // may be NULL
    size_t cmdline_bytes;
};

struct live {
    struct live_process *processes;
    uint32_t count;
};

#define LIVE_EMPTY                                                                                 \
    { 0 }

// Behind a look at the process's own memory: does it still run what it ran when it was added?
bool live_runs_the_same(const struct live_process *process);

// Lists what the process has open now. 0, -ESRCH where it is gone (or a zombie), -EACCES where it
// may not be looked at.
int live_add(struct live *live, pid_t pid);

// Forgets the process that was added last.
void live_drop_last(struct live *live);

// Asks the kernel for the sockets of all. Where it does not answer for a process, that one has
// kernel_error and its sockets stay without state.
void live_ask_kernel(struct live *live);

// Asks one socket of a process for what makes a leak likelier or last longer: properties and
// properties_known of `snapshot`. Holds a second reference to it for a moment (pidfd_getfd(2)).
// Nothing is known of a descriptor that is no longer this socket.
void live_properties(pid_t pid, int fd, uint64_t inode, struct ledger_snapshot *snapshot);

// Tells a report of one: report_observe().
int live_observe(const struct live_process *process, struct report *report, const char *unwatched);

void live_free(struct live *live);

#endif
