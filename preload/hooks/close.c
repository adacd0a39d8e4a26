// Deaths: close and all that closes. Each tells the tracker first, and closes then
// (track/tracker.h, "Order").
#include "base/output.h"
#include "base/sys.h"
#include "hooks/closing.h"
#include "hooks/real.h"
#include "report/snapshot.h"
#include "track/tracker.h"
#include <errno.h>
#include <limits.h>
#include <linux/close_range.h>
#include <unistd.h>

EXPORT HOT int close(int fd) {
    tracker_closing(fd, CALLER);
    return real_close(fd);
}

int __close(int fd);
EXPORT HOT int __close(int fd) {
    tracker_closing(fd, CALLER);
    return real___close(fd);
}

// A kernel that lacks close_range, or a filter that forbids it, says so before it looks at the
// arguments; one that has it refuses first > last.
static int kernel_closes_ranges(void) {
    return sys_call(SYS_close_range, 1, 0, 0, 0, 0, 0) == -EINVAL;
}

void closing_range(unsigned first, unsigned last, unsigned flags, const void *caller) {
    // CLOEXEC closes nothing now. UNSHARE closes in this thread's new table only: the process's
    // other threads keep their sockets, and a process of one thread loses no truth, since a report
    // asks the kernel which sockets are open.
    if (flags == 0 && first <= last && tracker_active() && kernel_closes_ranges())
        tracker_closing_range(first, last, caller);
}

EXPORT int close_range(unsigned first, unsigned last, int flags) {
    closing_range(first, last, (unsigned)flags, CALLER);
    return real_close_range(first, last, flags);
}

EXPORT void closefrom(int first) {
    tracker_closing_range(first < 0 ? 0 : (unsigned)first, INT_MAX, CALLER);
    real_closefrom(first);
}

// A stream's descriptor is about to be closed inside libc, by a call that no preload library sees.
// fileno takes no lock in glibc; of a stream without a descriptor it is -1 and sets errno.
static void closing_stream(FILE *stream, const void *caller) {
    if (!tracker_active())
        return;
    int saved_errno = errno;
    int fd = fileno(stream);
    errno = saved_errno;
    if (fd >= 0)
        tracker_closing(fd, caller);
}

EXPORT int fclose(FILE *stream) {
    closing_stream(stream, CALLER);
    return real_fclose(stream);
}

// glibc's fcloseall flushes and closes no descriptor (libio/fcloseall.c), so nothing dies here; it
// is interposed to hold that fact in one place, and a test checks it.
EXPORT int fcloseall(void) {
    return real_fcloseall();
}

// A vfork child's stderr is not its parent's, and a sandbox may forbid the look.
static FILE *reopened(FILE *stream) {
    if (stream && stream == stderr && !owner_is_other_process())
        output_remember_stderr();
    return stream;
}

EXPORT FILE *freopen(const char *path, const char *mode, FILE *stream) {
    closing_stream(stream, CALLER);
    return reopened(real_freopen(path, mode, stream));
}

EXPORT FILE *freopen64(const char *path, const char *mode, FILE *stream) {
    closing_stream(stream, CALLER);
    return reopened(real_freopen64(path, mode, stream));
}

// daemon forks, leaves its parent by an _exit of its own, and puts /dev/null in the place of 0, 1
// and 2, all inside libc. In the child what was there is gone, and what the parent had is the
// child's, also while the parent has not ended yet.
EXPORT int daemon(int keep_directory, int keep_streams) {
    pid_t parent = sys_getpid();
    int result = real_daemon(keep_directory, keep_streams);
    if (result != 0 || owner_is_other_process())
        return result;
    snapshot_parent_ends(parent);
    if (!keep_streams) {
        tracker_closing_range(STDIN_FILENO, STDERR_FILENO, CALLER);
        output_remember_stderr();
    }
    return 0;
}
