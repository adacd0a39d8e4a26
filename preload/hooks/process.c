// The ends of a process that pass no atexit handler, children that share memory, and the library's
// own beginning. fork needs no hook: see constructor().
#include "base/options.h"
#include "base/output.h"
#include "base/owner.h"
#include "hooks/real.h"
#include "report/signals.h"
#include "report/trigger.h"
#include "track/modules.h"
#include "track/tracker.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

// --- ends ---------------------------------------------------------------------------------------

EXPORT void _exit(int status) {
    real__exit(trigger_end(ENDED_UNDERSCORE_EXIT, status, "at _exit of"));
    __builtin_unreachable();
}

EXPORT void _Exit(int status) {
    real__Exit(trigger_end(ENDED_UNDERSCORE_EXIT, status, "at _Exit of"));
    __builtin_unreachable();
}

EXPORT void quick_exit(int status) {
    trigger_expect_quick_exit(status);
    real_quick_exit(status);
    __builtin_unreachable();
}

// --- children -----------------------------------------------------------------------------------

EXPORT int clone(int (*run)(void *), void *stack, int flags, void *argument, ...) {
    va_list rest;
    va_start(rest, argument);
    void *parent_tid = va_arg(rest, void *);
    void *tls = va_arg(rest, void *);
    void *child_tid = va_arg(rest, void *);
    va_end(rest);
    if ((flags & CLONE_VM) && !(flags & CLONE_THREAD))
        owner_expect_shared_memory();
    return real_clone(run, stack, flags, argument, parent_tid, tls, child_tid);
}

// Before anything else runs in a forked child. Also where fork was called inside libc.
static void continue_in_child(void) {
    tracker_continue_in_child();
    trigger_continue_in_child();
}

// --- modules ------------------------------------------------------------------------------------

EXPORT int dlclose(void *library) {
    int result = real_dlclose(library);
    module_unloaded();
    return result;
}

// --- the beginning ------------------------------------------------------------------------------

static void first_birth(void) {
    signals_install(real_sigaction);
    trigger_first_birth();
}

// Runs before main, and usually before the constructors of the program's other libraries; what they
// call earlier works all the same, only that the options are not read yet.
__attribute__((constructor)) static void constructor(void) {
    real_resolve();
    options_parse(getenv("SOCKLEAK_OPTIONS"));
    output_remember_stderr();
    tracker_on_first_birth = first_birth;
    pthread_atfork(NULL, NULL, continue_in_child);
    trigger_install();
}
