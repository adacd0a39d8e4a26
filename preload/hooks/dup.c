// One socket, several descriptors: dup, dup2, dup3, fcntl(F_DUPFD).
#include "base/output.h"
#include "base/owner.h"
#include "hooks/real.h"
#include "hooks/replacing.h"
#include "report/exhaustion.h"
#include "track/tracker.h"
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

EXPORT int dup(int fd) {
    uint32_t kept = tracker_dup_begin(fd);
    int copy = real_dup(fd);
    tracker_dup_done(kept, copy);
    exhaustion_after(copy, NULL, 0);
    return copy;
}

struct replacement replacing_begin(int fd, int to, const void *caller) {
    if (fd == to)
        return (struct replacement){0};
    return (struct replacement){tracker_dup_begin(fd), tracker_replace_begin(to, caller)};
}

int replacing_done(struct replacement replacement, int fd, int to, int result) {
    if (fd == to)
        return result;
    tracker_replace_done(replacement.replaced, to, result >= 0);
    tracker_dup_done(replacement.copied, result);
    exhaustion_after(result, NULL, 0);
    // Put there on purpose: reports may follow, but not to a socket that the program opened: that
    // is a connection. A vfork child's stderr is not its parent's.
    if (result == STDERR_FILENO && replacement.copied == 0 && !owner_is_other_process())
        output_remember_stderr();
    return result;
}

EXPORT int dup2(int fd, int to) {
    struct replacement r = replacing_begin(fd, to, CALLER);
    return replacing_done(r, fd, to, real_dup2(fd, to));
}

int __dup2(int fd, int to);
EXPORT int __dup2(int fd, int to) {
    struct replacement r = replacing_begin(fd, to, CALLER);
    return replacing_done(r, fd, to, real___dup2(fd, to));
}

EXPORT int dup3(int fd, int to, int flags) {
    struct replacement r = replacing_begin(fd, to, CALLER);
    return replacing_done(r, fd, to, real_dup3(fd, to, flags));
}

// The third argument is an int, a pointer or not there; it goes on as it came, in its register.
#define THIRD_ARGUMENT(command, argument)                                                          \
    va_list arguments;                                                                             \
    va_start(arguments, command);                                                                  \
    void *argument = va_arg(arguments, void *);                                                    \
    va_end(arguments)

static uint32_t before_fcntl(int fd, int command) {
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? tracker_dup_begin(fd) : 0;
}

static int after_fcntl(uint32_t kept, int command, int result) {
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
        tracker_dup_done(kept, result);
        exhaustion_after(result, NULL, 0);
    }
    return result;
}

EXPORT int fcntl(int fd, int command, ...) {
    THIRD_ARGUMENT(command, argument);
    uint32_t kept = before_fcntl(fd, command);
    return after_fcntl(kept, command, real_fcntl(fd, command, argument));
}

int __fcntl(int fd, int command, ...);
EXPORT int __fcntl(int fd, int command, ...) {
    THIRD_ARGUMENT(command, argument);
    uint32_t kept = before_fcntl(fd, command);
    return after_fcntl(kept, command, real___fcntl(fd, command, argument));
}

EXPORT int fcntl64(int fd, int command, ...) {
    THIRD_ARGUMENT(command, argument);
    uint32_t kept = before_fcntl(fd, command);
    return after_fcntl(kept, command, real_fcntl64(fd, command, argument));
}
