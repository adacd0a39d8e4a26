#include "base/clock.h"
#include "base/compiler.h"
#include "base/sys.h"
#include <dlfcn.h>
#include <errno.h>
#include <sys/auxv.h>
#include <time.h>

static int clock_by_system_call(clockid_t clock, struct timespec *out) {
    return (int)sys_call(SYS_clock_gettime, clock, (long)out, 0, 0, 0, 0);
}

typedef int clock_function(clockid_t, struct timespec *);
// Set while other threads read the clock: the first socket's thread finds the kernel's own, or
// libc's, behind the ledger.
static HOT_DATA clock_function *clock_read = clock_by_system_call;

// The reference is kept: both stay anyway, and dlclose is one of our hooks.
static clock_function *find(const char *object, const char *name) {
    void *opened = dlopen(object, RTLD_LAZY | RTLD_NOLOAD);
    return opened ? (clock_function *)dlsym(opened, name) : NULL;
}

void clock_init(void) {
    int saved_errno = errno;
    clock_function *found = NULL;
#if defined(__x86_64__)
    if (getauxval(AT_SYSINFO_EHDR)) // else (valgrind) dlopen would leave an error for dlerror
        found = find("linux-vdso.so.1", "__vdso_clock_gettime"); // vdso(7)
#endif
    if (!found)
        found = find("libc.so.6", "clock_gettime");
    errno = saved_errno;
    if (found)
        __atomic_store_n(&clock_read, found, __ATOMIC_RELAXED);
}

static HOT uint64_t clock_ns(clockid_t clock) {
    struct timespec now = {0};
    __atomic_load_n(&clock_read, __ATOMIC_RELAXED)(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

HOT uint64_t clock_now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t clock_epoch_ns(void) {
    return clock_ns(CLOCK_REALTIME);
}
