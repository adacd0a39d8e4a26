// Reads that can meet the end of a stream, and shutdown.
//
// The hot path. A read that moved data returns after a test and a jump: no table, clock or lock.
// The arguments that only the cold path needs are kept in volatile variables on purpose: in the
// registers that a call preserves they would cost a push, a move and a pop each.
#include "hooks/real.h"
#include "track/tracker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

// What was read, or not. Returns `n`.
static HOT NOINLINE ssize_t ended(int fd, bool asked_for_data, enum ledger_call call, ssize_t n,
                                  const void *caller) {
    if (n < 0)
        tracker_read_failed(fd, call, errno, caller);
    else if (n == 0 && asked_for_data)
        tracker_read_nothing(fd, call, caller);
    return n;
}

static COLD bool has_room(const struct iovec *parts, int count) {
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len)
            return true;
    return false;
}

EXPORT HOT ssize_t read(int fd, void *buffer, size_t len) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real_read(fd, buffer, len);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_READ, n, CALLER);
}

ssize_t __read(int fd, void *buffer, size_t len);
EXPORT HOT ssize_t __read(int fd, void *buffer, size_t len) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real___read(fd, buffer, len);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_READ, n, CALLER);
}

ssize_t __read_chk(int fd, void *buffer, size_t len, size_t room);
EXPORT ssize_t __read_chk(int fd, void *buffer, size_t len, size_t room) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real___read_chk(fd, buffer, len, room);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_READ, n, CALLER);
}

EXPORT HOT ssize_t readv(int fd, const struct iovec *parts, int count) {
    ssize_t n = real_readv(fd, parts, count);
    if (LIKELY(n > 0))
        return n;
    return ended(fd, n < 0 || has_room(parts, count), CALL_READV, n, CALLER);
}

EXPORT ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    ssize_t n = real_preadv2(fd, parts, count, offset, flags);
    if (LIKELY(n > 0))
        return n;
    return ended(fd, n < 0 || has_room(parts, count), CALL_PREADV2, n, CALLER);
}

EXPORT ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    ssize_t n = real_preadv64v2(fd, parts, count, offset, flags);
    if (LIKELY(n > 0))
        return n;
    return ended(fd, n < 0 || has_room(parts, count), CALL_PREADV2, n, CALLER);
}

EXPORT HOT ssize_t recv(int fd, void *buffer, size_t len, int flags) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real_recv(fd, buffer, len, flags);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_RECV, n, CALLER);
}

ssize_t __recv(int fd, void *buffer, size_t len, int flags);
EXPORT HOT ssize_t __recv(int fd, void *buffer, size_t len, int flags) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real___recv(fd, buffer, len, flags);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_RECV, n, CALLER);
}

ssize_t __recv_chk(int fd, void *buffer, size_t len, size_t room, int flags);
EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t len, size_t room, int flags) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real___recv_chk(fd, buffer, len, room, flags);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_RECV, n, CALLER);
}

EXPORT HOT ssize_t recvfrom(int fd, void *buffer, size_t len, int flags, struct sockaddr *from,
                            socklen_t *bytes) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real_recvfrom(fd, buffer, len, flags, from, bytes);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_RECVFROM, n, CALLER);
}

ssize_t __recvfrom_chk(int fd, void *buffer, size_t len, size_t room, int flags,
                       struct sockaddr *from, socklen_t *bytes);
EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t len, size_t room, int flags,
                              struct sockaddr *from, socklen_t *bytes) {
    volatile int kept_fd = fd;
    volatile size_t kept_len = len;
    ssize_t n = real___recvfrom_chk(fd, buffer, len, room, flags, from, bytes);
    if (LIKELY(n > 0))
        return n;
    return ended(kept_fd, kept_len > 0, CALL_RECVFROM, n, CALLER);
}

EXPORT ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t len,
                      unsigned flags) {
    ssize_t n = real_splice(from, from_offset, to, to_offset, len, flags);
    if (LIKELY(n > 0))
        return n;
    return ended(from, len > 0, CALL_SPLICE, n, CALLER);
}

EXPORT int shutdown(int fd, int how) {
    uint32_t kept = tracker_shutdown_begin(fd, how, CALLER);
    int result = real_shutdown(fd, how);
    tracker_shutdown_done(kept, how, result == 0, CALLER);
    return result;
}
