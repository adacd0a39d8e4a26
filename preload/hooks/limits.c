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

void limits_were_set(pid_t pid, int resource, const void *limit) {
    const struct rlimit *wanted = limit;
    if (tracker_active() && wanted && resource == RLIMIT_AS && wanted->rlim_cur != RLIM_INFINITY &&
        (pid == 0 || pid == sys_getpid()))
        tracker_live_within(wanted->rlim_cur);
}

static int after(int result, pid_t pid, __rlimit_resource_t resource, const void *limit) {
    if (result == 0)
        limits_were_set(pid, (int)resource, limit);
    return result;
}

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) {
    return after(real_setrlimit(resource, limit), 0, resource, limit);
}

EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit) {
    return after(real_setrlimit64(resource, limit), 0, resource, limit);
}

EXPORT int prlimit(pid_t pid, __rlimit_resource_t resource, const struct rlimit *limit,
                   struct rlimit *before) {
    return after(real_prlimit(pid, resource, limit, before), pid, resource, limit);
}

EXPORT int prlimit64(pid_t pid, __rlimit_resource_t resource, const struct rlimit64 *limit,
                     struct rlimit64 *before) {
    return after(real_prlimit64(pid, resource, limit, before), pid, resource, limit);
}

EXPORT int mlockall(int flags) {
    int result = real_mlockall(flags);
    if (result == 0 || errno != ENOMEM || !tracker_active())
        return result;
    tracker_live_within(0);
    return real_mlockall(flags);
}
