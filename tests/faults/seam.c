// The library's own system calls, made to fail: its sources are compiled a second time, with a
// base/sys.h in which sys_call() is this function (faults.mk). The product has none of it.
//
// SOCKLEAK_FAULTS names a file with a struct faults (test_faults.py writes it), which all processes
// of a run share. In the mode TRACE each call is noted; in ONCE the one that is named fails, in
// KIND that one and all later ones of its kind, in ALL that one and all later ones. In CUT it does
// not fail: in front of it, the process's ledger file is truncated. Calls that cannot fail (their
// manual pages list no error for valid arguments) are not counted. A call's name is the number of
// its process and its own number there: how processes take turns does not change it.
#include "base/sys.h"
#include "ledger/ledger_format.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum mode {
    TRACE,
    ONCE,
    KIND,
    ALL,
    CUT
};

enum cut {
    TO_NOTHING,
    TO_ZEROS, // made as long as it was, again
    TO_THE_HEADER
};

enum {
    TRACE_MAX = 1 << 15,
    PATH_BYTES = 256
};

struct faults {
    uint32_t process, index; // of the call that fails
    uint32_t mode;           // enum mode
    uint32_t variant;        // which of two errors; CUT: enum cut
    uint32_t processes;      // that there were so far
    uint32_t count;          // of calls
    uint32_t failed;         // of those that were made to fail
    uint32_t unused;
    struct {
        uint32_t process, index;
        uint32_t site; // where in the library the call was made
        uint16_t number;
        uint8_t errors[2]; // how many different ones, in the modes ONCE and KIND
    } calls[TRACE_MAX];    // TRACE: all; otherwise the first is the one that failed first
};

extern const char __ehdr_start[] __attribute__((visibility("hidden")));

static struct faults *faults;
static bool looked;
static long self; // pid of the process that `process` and `calls` are of
static uint32_t process, calls;
static char file[PATH_BYTES]; // the newest ledger that was to be made, by this process or a parent

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
    case SYS_close: // close(2): "Linux ... always releases the file descriptor"
        return EINTR;
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
#ifdef SYS_poll
    case SYS_poll:
#endif
    case SYS_ppoll:
    case SYS_nanosleep:
    case SYS_rt_sigtimedwait:
        return variant ? EPERM : interrupted;
    default:
        return variant ? EPERM : ENOMEM;
    }
}

static uint8_t errors_of(long number, unsigned mode) {
    return error_of(number, 0, mode) == error_of(number, 1, mode) ? 1 : 2;
}

static void note(uint32_t at, uint32_t index, uint32_t site, long number) {
    if (at >= TRACE_MAX)
        return;
    faults->calls[at].process = process;
    faults->calls[at].index = index;
    faults->calls[at].site = site;
    faults->calls[at].number = (uint16_t)number;
    faults->calls[at].errors[0] = errors_of(number, ONCE);
    faults->calls[at].errors[1] = errors_of(number, KIND);
}

static uint32_t next_index(void) {
    long now = sys_call_kernel(SYS_getpid, 0, 0, 0, 0, 0, 0);
    if (now != self) {
        self = now;
        calls = 0;
        process = __atomic_fetch_add(&faults->processes, 1, __ATOMIC_RELAXED);
    }
    return calls++; // the scenarios have one thread a process
}

static bool must_fail(uint32_t index, uint32_t site, long number) {
    if (process == faults->process && index == faults->index) {
        note(0, index, site, number);
        return true;
    }
    if (__atomic_load_n(&faults->failed, __ATOMIC_RELAXED) == 0)
        return false;
    return faults->mode == ALL || (faults->mode == KIND && faults->calls[0].number == number);
}

static void note_file(long number, const char *path, long flags) {
    const char *suffix = ".ledger";
    size_t bytes = number == SYS_openat && (flags & O_CREAT) ? strlen(path) : 0;
    if (bytes > strlen(suffix) && bytes < sizeof file &&
        strcmp(path + bytes - strlen(suffix), suffix) == 0)
        memcpy(file, path, bytes + 1);
}

static void cut(uint32_t variant) {
    struct stat status;
    if (sys_call_kernel(SYS_newfstatat, AT_FDCWD, (long)file, (long)&status, 0, 0, 0) < 0)
        return; // none yet, or none any more
    long kept_bytes = variant == TO_THE_HEADER ? LEDGER_HEADER_BYTES : 0;
    sys_call_kernel(SYS_truncate, (long)file, kept_bytes, 0, 0, 0, 0);
    if (variant == TO_ZEROS)
        sys_call_kernel(SYS_truncate, (long)file, status.st_size, 0, 0, 0, 0);
}

__attribute__((noinline)) long sys_call(long number, long a, long b, long c, long d, long e,
                                        long f) {
    if (!looked)
        look();
    if (!faults || !can_fail(number, a))
        return sys_call_kernel(number, a, b, c, d, e, f);
    note_file(number, (const char *)b, c); // NOLINT(performance-no-int-to-ptr)
    uint32_t index = next_index();
    uint32_t site = (uint32_t)((const char *)__builtin_return_address(0) - __ehdr_start);
    uint32_t at = __atomic_fetch_add(&faults->count, 1, __ATOMIC_RELAXED);
    if (faults->mode == TRACE)
        note(at, index, site, number);
    if (faults->mode == TRACE || !must_fail(index, site, number))
        return sys_call_kernel(number, a, b, c, d, e, f);
    __atomic_fetch_add(&faults->failed, 1, __ATOMIC_RELAXED);
    if (faults->mode == CUT) {
        cut(faults->variant);
        return sys_call_kernel(number, a, b, c, d, e, f);
    }
    if (number == SYS_close)
        sys_call_kernel(number, a, b, c, d, e, f);
    return -error_of(number, faults->variant, faults->mode);
}
