// Limits on memory that the program sets when the ledger has reserved its addresses already: those
// count against them (RLIMIT_AS in setrlimit(2), RLIMIT_MEMLOCK in mlockall(2)), and are given
// back.
#include "hooks/limits.h"
#include "base/sys.h"
#include "hooks/real.h"
#include "track/tracker.h"
#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

bool limits_before(int resource) {
    return resource == RLIMIT_AS && tracker_has_ledger();
}

void limits_after(bool begun, bool succeeded) {
    struct rlimit now;
    if (begun && succeeded && sys_call(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&now, 0, 0) == 0 &&
        now.rlim_cur != RLIM_INFINITY)
        ledger_live_within(now.rlim_cur);
}

#ifdef SOCKLEAK_SANITIZED
// A build with a sanitizer: its runtime sets limits before anything that it watches may run.
#define UNWATCHED __attribute__((no_sanitize("address", "thread")))
UNWATCHED static bool is_runtimes(int resource, const void *limit, int *result) {
    if (resource == RLIMIT_AS)
        return false;
    long error = sys_call(SYS_prlimit64, 0, resource, (long)limit, 0, 0, 0);
    if (error < 0)
        errno = (int)-error;
    *result = error < 0 ? -1 : 0;
    return true;
}
#else
#define UNWATCHED
#define is_runtimes(resource, limit, result) false
#endif

UNWATCHED EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) {
    int early = -1;
    if (is_runtimes((int)resource, limit, &early))
        return early;
    bool begun = limits_before((int)resource);
    int result = real_setrlimit(resource, limit);
    limits_after(begun, result == 0);
    return result;
}

UNWATCHED EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit) {
    int early = -1;
    if (is_runtimes((int)resource, limit, &early))
        return early;
    bool begun = limits_before((int)resource);
    int result = real_setrlimit64(resource, limit);
    limits_after(begun, result == 0);
    return result;
}

EXPORT int prlimit(pid_t pid, __rlimit_resource_t resource, const struct rlimit *limit,
                   struct rlimit *before) {
    bool begun = limits_before((int)resource);
    int result = real_prlimit(pid, resource, limit, before);
    limits_after(begun, result == 0);
    return result;
}

EXPORT int prlimit64(pid_t pid, __rlimit_resource_t resource, const struct rlimit64 *limit,
                     struct rlimit64 *before) {
    bool begun = limits_before((int)resource);
    int result = real_prlimit64(pid, resource, limit, before);
    limits_after(begun, result == 0);
    return result;
}

bool limits_after_locking(bool begun, int error) {
    if (!begun || error != ENOMEM)
        return false;
    ledger_live_within(0);
    return true;
}

EXPORT int mlockall(int flags) {
    int saved_errno = errno;
    bool begun = tracker_has_ledger();
    int result = real_mlockall(flags);
    if (result == 0 || !limits_after_locking(begun, errno))
        return result;
    result = real_mlockall(flags);
    if (result == 0)
        errno = saved_errno;
    return result;
}
