// The library's own system calls, made to fail: its sources are compiled a second time, with a
// base/sys.h in which sys_call() is this function (faults.mk). The product has none of it.
//
// SOCKLEAK_FAULTS names a file with a struct faults (test_faults.py writes it), which all processes
// of a run share. In the mode TRACE each call is noted; in ONCE the one whose number is `at` fails,
// in ON that one and all later ones. Calls that cannot fail (their manual pages list no error for
// valid arguments) are not counted.
#include "base/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum mode {
    TRACE,
    ONCE,
    KIND,
    ALL
};

enum {
    TRACE_MAX = 1 << 16
};

struct faults {
    uint64_t at;
    uint32_t mode;    // enum mode
    uint32_t variant; // which of two errors
    uint64_t count;   // of calls so far
    uint64_t failed;  // of those that were made to fail
    struct {
        uint32_t site; // where in the library the call was made
        uint32_t number;
    } calls[TRACE_MAX]; // TRACE: all; otherwise the first is the one that failed first
};

extern const char __ehdr_start[] __attribute__((visibility("hidden")));

static struct faults *faults;
static bool looked;

static void look(void) {
    looked = true;
    const char *path = getenv("SOCKLEAK_FAULTS");
    long fd = path ? sys_call_kernel(SYS_openat, AT_FDCWD, (long)path, O_RDWR, 0, 0, 0) : -1;
    if (fd < 0)
        return;
    long at =
        sys_call_kernel(SYS_mmap, 0, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    sys_call_kernel(SYS_close, fd, 0, 0, 0, 0, 0);
    if (at > 0)
        faults = (struct faults *)at; // NOLINT(performance-no-int-to-ptr)
}

static bool can_fail(long number, long a) {
    switch (number) {
    case SYS_getpid:
    case SYS_getppid:
    case SYS_gettid:
    case SYS_tgkill: // of this process, for a thread and a signal that exist
    case SYS_rt_sigpending:
    case SYS_futex: // its result is not looked at: it is called again
    case SYS_exit_group:
        return false;
    case SYS_rt_sigprocmask:
        return a == ~0L; // a question about memory (readable.h)
    default:
        return true;
    }
}

// Two errors that each call can have, as its manual page tells. EINTR is what a signal does, so it
// is not the lasting answer of any call.
static int error_of(long number, unsigned variant, unsigned mode) {
    int interrupted = mode == ONCE ? EINTR : EPERM;
    switch (number) {
    case SYS_openat:
        return variant ? EACCES : EMFILE;
    case SYS_read:
    case SYS_getdents64:
        return variant ? interrupted : EIO;
    case SYS_write:
    case SYS_pwritev2:
        return variant ? interrupted : ENOSPC;
    case SYS_mmap:
    case SYS_mprotect:
    case SYS_munmap:
        return variant ? EPERM : ENOMEM;
    case SYS_madvise:
        return variant ? EINVAL : ENOMEM;
    case SYS_ftruncate:
    case SYS_fallocate:
        return variant ? interrupted : ENOSPC;
    case SYS_rt_sigprocmask:
        return EFAULT;
    case SYS_getsockopt:
    case SYS_getsockname:
        return variant ? EPERM : ENOBUFS;
    case SYS_ppoll:
    case SYS_nanosleep:
    case SYS_rt_sigtimedwait:
        return variant ? EPERM : interrupted;
    default:
        return variant ? EPERM : ENOMEM;
    }
}

__attribute__((noinline)) long sys_call(long number, long a, long b, long c, long d, long e,
                                        long f) {
    if (!looked)
        look();
    if (!faults || !can_fail(number, a))
        return sys_call_kernel(number, a, b, c, d, e, f);
    uint64_t mine = __atomic_fetch_add(&faults->count, 1, __ATOMIC_RELAXED);
    uint32_t site = (uint32_t)((const char *)__builtin_return_address(0) - __ehdr_start);
    if (faults->mode == TRACE) {
        if (mine < TRACE_MAX) {
            faults->calls[mine].site = site;
            faults->calls[mine].number = (uint32_t)number;
        }
        return sys_call_kernel(number, a, b, c, d, e, f);
    }
    if (mine == faults->at) {
        faults->calls[0].site = site;
        faults->calls[0].number = (uint32_t)number;
    }
    bool same_kind = faults->calls[0].number == (uint32_t)number;
    if (mine < faults->at || (mine > faults->at && faults->mode == ONCE) ||
        (mine > faults->at && faults->mode == KIND && !same_kind))
        return sys_call_kernel(number, a, b, c, d, e, f);
    __atomic_fetch_add(&faults->failed, 1, __ATOMIC_RELAXED);
    if (number == SYS_close) { // close(2): "Linux ... always releases the file descriptor"
        sys_call_kernel(number, a, b, c, d, e, f);
        return -EINTR;
    }
    return -error_of(number, faults->variant, faults->mode);
}
