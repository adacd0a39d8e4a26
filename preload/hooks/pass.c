// Descriptors passed from elsewhere: recvmsg, recvmmsg, pidfd_getfd.
#include "hooks/messages.h"
#include "hooks/real.h"
#include "report/exhaustion.h"
#include "track/tracker.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static void receive_fds(const struct cmsghdr *control, enum ledger_call call, const void *caller) {
    size_t bytes = control->cmsg_len - CMSG_LEN(0);
    for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
        int fd;
        memcpy(&fd, CMSG_DATA(control) + at, sizeof fd);
        tracker_received(fd, call, caller);
    }
}

static COLD void look_for_fds(const struct msghdr *message, enum ledger_call call,
                              const void *caller) {
    struct msghdr *m = (struct msghdr *)message; // CMSG_NXTHDR wants it so; nothing is written
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len > CMSG_LEN(0))
            receive_fds(c, call, caller);
}

static bool has_room(const struct msghdr *message) {
    for (size_t i = 0; i < message->msg_iovlen; i++)
        if (message->msg_iov[i].iov_len)
            return true;
    return false;
}

void message_arrived(int fd, const struct msghdr *message, long n, enum ledger_call call,
                     const void *caller) {
    if (message->msg_control && message->msg_controllen)
        look_for_fds(message, call, caller);
    if (UNLIKELY(n == 0) && has_room(message))
        tracker_read_nothing(fd, call, caller);
}

void messages_arrived(int fd, const struct mmsghdr *messages, int count, const void *caller) {
    for (int i = 0; i < count; i++)
        message_arrived(fd, &messages[i].msg_hdr, messages[i].msg_len, CALL_RECVMMSG, caller);
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    ssize_t n = real_recvmsg(fd, message, flags);
    if (n >= 0)
        message_arrived(fd, message, n, CALL_RECVMSG, CALLER);
    else
        tracker_read_failed(fd, CALL_RECVMSG, errno, CALLER);
    return n;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                    struct timespec *timeout) {
    int arrived = real_recvmmsg(fd, messages, count, flags, timeout);
    if (arrived >= 0)
        messages_arrived(fd, messages, arrived, CALLER);
    else
        tracker_read_failed(fd, CALL_RECVMMSG, errno, CALLER);
    return arrived;
}

int pidfd_getfd(int pidfd, int target, unsigned flags); // <sys/pidfd.h>, glibc 2.36
EXPORT int pidfd_getfd(int pidfd, int target, unsigned flags) {
    int fd = real_pidfd_getfd(pidfd, target, flags);
    exhaustion_after(fd, NULL, 0);
    if (fd >= 0)
        tracker_received(fd, CALL_PIDFD_GETFD, CALLER);
    return fd;
}
