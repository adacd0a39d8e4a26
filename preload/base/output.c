#include "base/output.h"
#include "base/clock.h"
#include "base/format.h"
#include "base/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

enum {
    STDERR = 2,
    PATIENCE_MS = 2000,
    PATH_BYTES = 1024,
    SIGNAL_SET_BYTES = 8
};

// A file, known by device and inode. Both 0: none.
struct identity {
    uint64_t device, inode;
};

static struct identity stderr_identity;
static struct identity log_identity; // of the log that this process made

static struct identity identity_of(int fd) {
    struct stat status;
    if (sys_fstat(fd, &status) < 0)
        return (struct identity){0};
    return (struct identity){status.st_dev, status.st_ino};
}

static bool same(struct identity a, struct identity b) {
    return a.device == b.device && a.inode == b.inode;
}

void output_remember_stderr(void) {
    stderr_identity = identity_of(STDERR);
}

// stderr may be a socket from the start, when a service manager reads it (AF_UNIX); but a client's
// connection, as inetd gives it, is no place for our lines.
static bool may_write_to_stderr(void) {
    struct stat status;
    if (sys_fstat(STDERR, &status) < 0 || !same(stderr_identity, identity_of(STDERR)))
        return false;
    if (!S_ISSOCK(status.st_mode))
        return true;
    int domain = 0;
    unsigned bytes = sizeof domain;
    return sys_getsockopt(STDERR, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 && domain == AF_UNIX;
}

// Writing to one does not depend on a reader; and for some file systems RWF_NOWAIT would mean: only
// where the block is there already.
static bool is_regular_file(int fd) {
    struct stat status;
    return sys_fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

// --- signals ------------------------------------------------------------------------------------

static uint64_t own_signals(void) {
    return 1ull << (SIGPIPE - 1) | 1ull << (SIGXFSZ - 1) | 1ull << (SIGTTOU - 1);
}

static uint64_t pending(void) {
    uint64_t set = 0;
    sys_call(SYS_rt_sigpending, (long)&set, SIGNAL_SET_BYTES, 0, 0, 0, 0);
    return set;
}

static void block_signals(struct output *out) {
    out->blocked_signals = sys_block_signals();
    out->pending_signals = pending();
}

static void restore_signals(const struct output *out) {
    uint64_t ours = pending() & own_signals() & ~out->pending_signals;
    struct timespec at_once = {0};
    while (ours && sys_call(SYS_rt_sigtimedwait, (long)&ours, 0, (long)&at_once, SIGNAL_SET_BYTES,
                            0, 0) > 0)
        ;
    sys_set_signal_mask(out->blocked_signals);
}

// --- the log ------------------------------------------------------------------------------------

static void expand(struct text_buffer *path, const char *pattern, const char *exe) {
    const char *slash = strrchr(exe, '/');
    for (; *pattern; pattern++) {
        char kind = *pattern == '%' ? pattern[1] : '\0';
        switch (kind) {
        case 'p':
            text_decimal(path, (uint64_t)sys_getpid());
            break;
        case 'n':
            text_string(path, slash ? slash + 1 : exe);
            break;
        case 't':
            text_decimal(path, clock_epoch_ns() / 1000000000u);
            break;
        case '%':
            text_char(path, '%');
            break;
        default:
            text_char(path, *pattern);
            continue;
        }
        pattern++;
    }
}

static int open_log(const char *path) {
    int fd = sys_openat(AT_FDCWD, path,
                        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd >= 0) {
        log_identity = identity_of(fd);
        return fd;
    }
    if (fd != -EEXIST || log_identity.inode == 0)
        return fd;
    fd = sys_openat(AT_FDCWD, path,
                    O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0);
    if (fd >= 0 && !same(log_identity, identity_of(fd))) {
        sys_close(fd);
        return -EEXIST;
    }
    return fd;
}

static const char *reason(int error) {
    switch (error) {
    case -EEXIST:
        return "it exists already, and is not overwritten";
    case -ENOENT:
        return "no such directory";
    case -EACCES:
    case -EPERM:
        return "permission denied";
    case -ENOSPC:
    case -EDQUOT:
        return "no space left on the device";
    case -EROFS:
        return "read-only file system";
    case -ELOOP:
        return "it is a symbolic link";
    case -EMFILE:
    case -ENFILE:
        return "too many open files";
    case -ENAMETOOLONG:
        return "the name is too long";
    default:
        return "it cannot be opened";
    }
}

void output_open(struct output *out, const char *log_path, const char *exe, char *problem,
                 size_t problem_bytes) {
    struct text_buffer why = text_buffer(problem, problem_bytes);
    out->fd = -1;
    out->is_file = out->failed = false;
    out->plain_write = true;
    out->patience = (struct timespec){.tv_sec = PATIENCE_MS / 1000};
    out->len_bytes = 0;
    block_signals(out);
    if (log_path[0]) {
        char path_memory[PATH_BYTES];
        struct text_buffer path = text_buffer(path_memory, sizeof path_memory);
        expand(&path, log_path, exe);
        int fd = path.truncated ? -ENAMETOOLONG : open_log(path.text);
        if (fd >= 0) {
            out->fd = fd;
            out->is_file = true;
            return;
        }
        text_string(&why, "log_path=");
        text_foreign(&why, path.text);
        text_string(&why, ": ");
        text_string(&why, reason(fd));
        text_string(&why, "; reporting here instead");
    }
    if (may_write_to_stderr())
        out->fd = STDERR;
    out->plain_write = out->fd < 0 || is_regular_file(out->fd);
}

// --- writing ------------------------------------------------------------------------------------

// The kernel writes back what is left of the time (ppoll(2), "C library/kernel differences"), so
// all waits of one report share it.
static bool wait_until_writable(struct output *out) {
    struct pollfd poll = {.fd = out->fd, .events = POLLOUT};
    return sys_call(SYS_ppoll, (long)&poll, 1, (long)&out->patience, 0, 0, 0) == 1;
}

// A pipe that poll calls writable takes PIPE_BUF (4096) bytes without blocking, but it may have
// other writers, who fill it before we write. O_NONBLOCK is theirs as well as ours, so it is said
// for this write alone (pwritev2(2), RWF_NOWAIT), where the kernel can do that with this file.
static long write_some(struct output *out, const char *text, size_t len_bytes) {
    if (!out->plain_write) {
        struct iovec piece = {.iov_base = (char *)(uintptr_t)text, .iov_len = len_bytes};
        long n = sys_call(SYS_pwritev2, out->fd, (long)&piece, 1, -1, -1, RWF_NOWAIT);
        if (n != -EOPNOTSUPP && n != -EINVAL && n != -ENOSYS)
            return n;
        out->plain_write = true;
    }
    return sys_write(out->fd, text, len_bytes);
}

// Poll said writable, and the write says no: what poll did not wait is waited here.
static bool wait_a_little(struct output *out) {
    sys_sleep_ms(1);
    long left_ns = out->patience.tv_sec * 1000000000 + out->patience.tv_nsec - 1000000;
    if (left_ns < 0)
        return false;
    out->patience =
        (struct timespec){.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
    return true;
}

static void flush(struct output *out) {
    size_t done = 0;
    while (done < out->len_bytes && !out->failed) {
        if (!wait_until_writable(out)) {
            out->failed = true;
            break;
        }
        long n = write_some(out, out->buffer + done, out->len_bytes - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == -EAGAIN)
            out->failed = !wait_a_little(out);
        else if (n != -EINTR)
            out->failed = true;
    }
    out->len_bytes = 0;
}

void output_write(struct output *out, const char *text, size_t len_bytes) {
    if (out->fd < 0 || len_bytes > sizeof out->buffer) {
        out->failed = true;
        return;
    }
    if (len_bytes > sizeof out->buffer - out->len_bytes)
        flush(out);
    memcpy(out->buffer + out->len_bytes, text, len_bytes);
    out->len_bytes += len_bytes;
}

int output_close(struct output *out) {
    if (out->fd >= 0)
        flush(out);
    if (out->is_file)
        sys_close(out->fd);
    restore_signals(out);
    return out->failed ? -EIO : 0;
}
