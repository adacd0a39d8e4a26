// syscall(2): the same events by number. libuv closes this way.
//
// Six arguments are passed through whether the program gave them or not, as libc does. What the
// families' files do for a function is done here for its number; where the function's own hook can
// be used as it is, it is not: libc's wrappers are cancellation points, and syscall is none.
#include "base/owner.h"
#include "hooks/closing.h"
#include "hooks/limits.h"
#include "hooks/messages.h"
#include "hooks/real.h"
#include "hooks/replacing.h"
#include "hooks/sandboxing.h"
#include "report/exhaustion.h"
#include "report/trigger.h"
#include "track/programs.h"
#include "track/tracker.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

struct call {
    long number, a, b, c, d, e, f;
};

static long pass_on(const struct call *call) {
    return real_syscall(call->number, call->a, call->b, call->c, call->d, call->e, call->f);
}

static void *pointer(long argument) {
    return (void *)argument; // NOLINT(performance-no-int-to-ptr)
}

static long do_socket(const struct call *call, const void *caller) {
    long fd = pass_on(call);
    exhaustion_after(fd, NULL, 0);
    if (fd >= 0)
        tracker_born((int)fd, &(struct tracker_birth){.call = CALL_SOCKET,
                                                      .family = (int)call->a,
                                                      .type = (int)call->b,
                                                      .protocol = (int)call->c,
                                                      .caller = caller});
    return fd;
}

static long do_socketpair(const struct call *call, const void *caller) {
    long result = pass_on(call);
    exhaustion_after(result, NULL, 0);
    const int *fds = pointer(call->d);
    for (int i = 0; result == 0 && i < 2; i++)
        tracker_born(fds[i], &(struct tracker_birth){.call = CALL_SOCKETPAIR,
                                                     .family = (int)call->a,
                                                     .type = (int)call->b,
                                                     .protocol = (int)call->c,
                                                     .caller = caller});
    return result;
}

static long do_accept(const struct call *call, enum ledger_call name, const void *caller) {
    tracker_before_accept();
    long fd = pass_on(call);
    exhaustion_after(fd, NULL, 0);
    if (fd >= 0)
        tracker_accepted((int)call->a, (int)fd, name, caller);
    return fd;
}

static long do_read(const struct call *call, enum ledger_call name, bool asked_for_data,
                    const void *caller) {
    long n = pass_on(call);
    if (n < 0)
        tracker_read_failed((int)call->a, name, errno, caller);
    else if (n == 0 && asked_for_data)
        tracker_read_nothing((int)call->a, name, caller);
    return n;
}

static bool has_room(const struct call *call) {
    const struct iovec *parts = pointer(call->b);
    for (long i = 0; i < call->c; i++)
        if (parts[i].iov_len)
            return true;
    return false;
}

// A read into several parts: where they lie must not be looked at before the kernel has accepted
// it.
static long do_readv(const struct call *call, enum ledger_call name, const void *caller) {
    long n = pass_on(call);
    if (n < 0)
        tracker_read_failed((int)call->a, name, errno, caller);
    else if (n == 0 && has_room(call))
        tracker_read_nothing((int)call->a, name, caller);
    return n;
}

static long do_recvmsg(const struct call *call, const void *caller) {
    long n = pass_on(call);
    if (n >= 0)
        message_arrived((int)call->a, pointer(call->b), n, CALL_RECVMSG, caller);
    else
        tracker_read_failed((int)call->a, CALL_RECVMSG, errno, caller);
    return n;
}

static long do_recvmmsg(const struct call *call, const void *caller) {
    long arrived = pass_on(call);
    if (arrived >= 0)
        messages_arrived((int)call->a, pointer(call->b), (int)arrived, caller);
    else
        tracker_read_failed((int)call->a, CALL_RECVMMSG, errno, caller);
    return arrived;
}

static long do_connect(const struct call *call, const void *caller) {
    long result = pass_on(call);
    tracker_connected((int)call->a, pointer(call->b), (socklen_t)call->c, result == 0 ? 0 : errno,
                      caller);
    exhaustion_after(result, pointer(call->b), (socklen_t)call->c);
    return result;
}

static long do_shutdown(const struct call *call, const void *caller) {
    uint32_t kept = tracker_shutdown_begin((int)call->a, (int)call->b, caller);
    long result = pass_on(call);
    tracker_shutdown_done(kept, (int)call->b, result == 0, caller);
    return result;
}

static long do_received(const struct call *call, const void *caller) {
    long fd = pass_on(call);
    exhaustion_after(fd, NULL, 0);
    if (fd >= 0)
        tracker_received((int)fd, CALL_PIDFD_GETFD, caller);
    return fd;
}

static long do_dup(const struct call *call) {
    uint32_t kept = tracker_dup_begin((int)call->a);
    long fd = pass_on(call);
    tracker_dup_done(kept, (int)fd);
    exhaustion_after(fd, NULL, 0);
    return fd;
}

static long do_dup_over(const struct call *call, const void *caller) {
    struct replacement r = replacing_begin((int)call->a, (int)call->b, caller);
    return replacing_done(r, (int)call->a, (int)call->b, (int)pass_on(call));
}

static long do_fcntl(const struct call *call) {
    return call->b == F_DUPFD || call->b == F_DUPFD_CLOEXEC ? do_dup(call) : pass_on(call);
}

static long do_close(const struct call *call, const void *caller) {
    tracker_closing((int)call->a, caller);
    return pass_on(call);
}

static long do_close_range(const struct call *call, const void *caller) {
    closing_range((unsigned)call->a, (unsigned)call->b, (unsigned)call->c, caller);
    return pass_on(call);
}

static long do_exit_group(struct call *call) {
    call->a = trigger_end(ENDED_UNDERSCORE_EXIT, (int)call->a, "at exit_group of");
    return pass_on(call);
}

static long do_exec(const struct call *call, const struct program_call *program) {
    struct program_exec exec = program_exec_begin(program);
    long result = pass_on(call);
    program_exec_failed(&exec);
    return result;
}

static long do_execve(const struct call *call) {
    return do_exec(call, &(struct program_call){.dir = AT_FDCWD,
                                                .path = pointer(call->a),
                                                .environment = pointer(call->c)});
}

static long do_execveat(const struct call *call) {
    return do_exec(call, &(struct program_call){.dir = (int)call->a,
                                                .path = pointer(call->b),
                                                .flags = (int)call->e,
                                                .environment = pointer(call->d)});
}

static long do_clone(const struct call *call) {
    tracker_before_clone((unsigned long)call->a);
    return pass_on(call);
}

// Its flags lie behind a pointer that only the kernel may follow: it may be wrong.
static long do_clone3(const struct call *call) {
    tracker_before_raw_fork();
    owner_expect_shared_memory();
    return pass_on(call);
}

static long do_limit(const struct call *call) {
    bool begun = limits_before((int)(call->number == SYS_setrlimit ? call->a : call->b));
    long result = pass_on(call);
    limits_after(begun, result == 0);
    return result;
}

static long do_mlockall(const struct call *call) {
    int saved_errno = errno;
    bool begun = tracker_has_ledger();
    long result = pass_on(call);
    if (result == 0 || !limits_after_locking(begun, errno))
        return result;
    result = pass_on(call);
    if (result == 0)
        errno = saved_errno;
    return result;
}

static long do_prctl(const struct call *call) {
    if (call->a != PR_SET_SECCOMP)
        return pass_on(call);
    bool begun = sandboxing_begin();
    long result = pass_on(call);
    sandboxing_done(begun, result == 0);
    return result;
}

static long do_seccomp(const struct call *call) {
    if (call->a != SECCOMP_SET_MODE_STRICT && call->a != SECCOMP_SET_MODE_FILTER)
        return pass_on(call);
    bool begun = sandboxing_begin();
    long result = pass_on(call);
    // Success is 0 or the listener's fd; other positive results name the thread that did not follow
    // (seccomp(2), SECCOMP_FILTER_FLAG_TSYNC).
    bool listener = (unsigned long)call->b & SECCOMP_FILTER_FLAG_NEW_LISTENER;
    sandboxing_done(begun, result == 0 || (listener && result > 0));
    return result;
}

static long dispatch(struct call *call, const void *caller) {
    switch (call->number) {
    case SYS_read:
        return do_read(call, CALL_READ, call->c != 0, caller);
    case SYS_recvfrom:
        return do_read(call, CALL_RECVFROM, call->c != 0, caller);
    case SYS_splice:
        return do_read(call, CALL_SPLICE, call->e != 0, caller);
    case SYS_readv:
        return do_readv(call, CALL_READV, caller);
    case SYS_preadv2:
        return do_readv(call, CALL_PREADV2, caller);
    case SYS_recvmsg:
        return do_recvmsg(call, caller);
    case SYS_recvmmsg:
        return do_recvmmsg(call, caller);
    case SYS_close:
        return do_close(call, caller);
    case SYS_socket:
        return do_socket(call, caller);
    case SYS_socketpair:
        return do_socketpair(call, caller);
    case SYS_accept:
        return do_accept(call, CALL_ACCEPT, caller);
    case SYS_accept4:
        return do_accept(call, CALL_ACCEPT4, caller);
    case SYS_connect:
        return do_connect(call, caller);
    case SYS_shutdown:
        return do_shutdown(call, caller);
    case SYS_dup:
        return do_dup(call);
#ifdef SYS_dup2
    case SYS_dup2:
#endif
    case SYS_dup3:
        return do_dup_over(call, caller);
    case SYS_fcntl:
        return do_fcntl(call);
    case SYS_pidfd_getfd:
        return do_received(call, caller);
    case SYS_close_range:
        return do_close_range(call, caller);
    case SYS_exit_group:
        return do_exit_group(call);
    case SYS_execve:
        return do_execve(call);
    case SYS_execveat:
        return do_execveat(call);
    case SYS_clone:
        return do_clone(call);
    case SYS_clone3:
        return do_clone3(call);
    case SYS_chroot:
    case SYS_pivot_root:
        tracker_before_new_root();
        return pass_on(call);
    case SYS_setrlimit:
    case SYS_prlimit64:
        return do_limit(call);
    case SYS_mlockall:
        return do_mlockall(call);
    case SYS_prctl:
        return do_prctl(call);
    case SYS_seccomp:
        return do_seccomp(call);
#ifdef SYS_vfork
    case SYS_vfork:
        tracker_note_fork();
        owner_expect_shared_memory();
        return pass_on(call);
#endif
#ifdef SYS_fork
    case SYS_fork:
        tracker_before_raw_fork();
        return pass_on(call);
#endif
    default:
        return pass_on(call);
    }
}

// Like libc's, it reads six arguments, however many there are: what is behind the last one is
// passed on and not looked at.
__attribute__((no_sanitize("address"))) EXPORT long syscall(long number, ...) {
    struct call call = {.number = number};
    va_list arguments;
    va_start(arguments, number);
    call.a = va_arg(arguments, long);
    call.b = va_arg(arguments, long);
    call.c = va_arg(arguments, long);
    call.d = va_arg(arguments, long);
    call.e = va_arg(arguments, long);
    call.f = va_arg(arguments, long);
    va_end(arguments);
    return dispatch(&call, CALLER);
}
