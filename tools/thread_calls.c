#include "thread_calls.h"
#include "procfs.h"
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

// What may wait, by number; `fd` is the argument that names the descriptor, NO_FD for none.
enum {
    NO_FD = -1,
    POLL = -2 // the argument is an array of struct pollfd
};

#define CALL(name, fd)                                                                             \
    { SYS_##name, #name, fd }

static const struct {
    int32_t number;
    const char *name;
    int fd;
} calls[] = {
    CALL(read, 0),
    CALL(write, 0),
    CALL(readv, 0),
    CALL(writev, 0),
    CALL(pread64, 0),
    CALL(pwrite64, 0),
    CALL(preadv, 0),
    CALL(pwritev, 0),
    CALL(preadv2, 0),
    CALL(pwritev2, 0),
    CALL(recvfrom, 0),
    CALL(recvmsg, 0),
    CALL(recvmmsg, 0),
    CALL(sendto, 0),
    CALL(sendmsg, 0),
    CALL(sendmmsg, 0),
    CALL(sendfile, 0),
    CALL(splice, 0),
    CALL(accept, 0),
    CALL(accept4, 0),
    CALL(connect, 0),
    CALL(close, 0), // SO_LINGER: socket(7)
    CALL(shutdown, 0),
    CALL(ppoll, POLL),
    CALL(pselect6, NO_FD),
    CALL(epoll_pwait, 0),
#ifdef SYS_epoll_pwait2
    CALL(epoll_pwait2, 0),
#endif
#ifdef SYS_poll
    CALL(poll, POLL),
#endif
#ifdef SYS_select
    CALL(select, NO_FD),
#endif
#ifdef SYS_epoll_wait
    CALL(epoll_wait, 0),
#endif
#ifdef SYS_pause
    CALL(pause, NO_FD),
#endif
    CALL(io_uring_enter, 0),
    CALL(io_getevents, NO_FD),
    CALL(flock, 0),
    CALL(fcntl, 0),
    CALL(fsync, 0),
    CALL(fdatasync, 0),
    CALL(ioctl, 0),
    CALL(openat, NO_FD), // a fifo
    CALL(futex, NO_FD),
#ifdef SYS_futex_waitv
    CALL(futex_waitv, NO_FD),
#endif
    CALL(nanosleep, NO_FD),
    CALL(clock_nanosleep, NO_FD),
    CALL(wait4, NO_FD),
    CALL(waitid, NO_FD),
    CALL(rt_sigtimedwait, NO_FD),
    CALL(rt_sigsuspend, NO_FD),
    CALL(restart_syscall, NO_FD), // any that a stop interrupted
    CALL(semtimedop, NO_FD),
    CALL(semop, NO_FD),
    CALL(msgrcv, NO_FD),
    CALL(msgsnd, NO_FD),
    CALL(mq_timedreceive, 0),
    CALL(mq_timedsend, 0),
};

int thread_call_read(pid_t pid, pid_t tid, struct thread_call *out) {
    char path[64], text[512];
    *out = (struct thread_call){.number = -2};
    uint64_t *a = out->arguments;
    snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", (int)pid, (int)tid);
    ssize_t len = procfs_read(path, text, sizeof text);
    if (len < 0)
        return len == -ENOENT ? -ESRCH : (int)len;
    if (strncmp(text, "running", 7) == 0)
        return 0;
    if (sscanf(text, "-1 %" SCNx64 " %" SCNx64, &out->stack_pointer, &out->counter) == 2) {
        out->number = -1;
        return 0;
    }
    int count = sscanf(text,
                       "%" SCNd32 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
                       " %" SCNx64 " %" SCNx64 " %" SCNx64,
                       &out->number, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &out->stack_pointer,
                       &out->counter);
    if (count == 9)
        return 0;
    *out = (struct thread_call){.number = -2};
    return -EPROTO;
}

const char *thread_call_name(int32_t number) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (calls[i].number == number)
            return calls[i].name;
    return NULL;
}

static void poll_wait(pid_t pid, const struct thread_call *call, int32_t *fd, uint32_t *count) {
    struct pollfd first;
    struct iovec here = {&first, sizeof first};
    struct iovec there = {(void *)(uintptr_t)call->arguments[0], sizeof first};
    uint64_t all = call->arguments[1];
    if (all == 1 && process_vm_readv(pid, &here, 1, &there, 1, 0) == sizeof first)
        *fd = first.fd;
    else if (all > 0 && all <= INT32_MAX)
        *count = (uint32_t)all;
}

void thread_call_wait(pid_t pid, const struct thread_call *call, int32_t *fd, uint32_t *count) {
    *fd = -1;
    *count = 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (calls[i].number != call->number)
            continue;
        if (calls[i].fd == POLL)
            poll_wait(pid, call, fd, count);
        else if (calls[i].fd != NO_FD && call->arguments[calls[i].fd] <= INT32_MAX)
            *fd = (int32_t)call->arguments[calls[i].fd];
    }
}
