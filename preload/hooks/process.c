// The ends of a process that pass no atexit handler, children that share memory, and the library's
// own beginning. fork needs no hook: see process_begin().
#include "base/options.h"
#include "base/output.h"
#include "base/owner.h"
#include "base/sys.h"
#include "hooks/real.h"
#include "hooks/sandboxing.h"
#include "ledger/ledger.h"
#include "report/signals.h"
#include "report/trigger.h"
#include "track/modules.h"
#include "track/programs.h"
#include "track/tracker.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

// What the flags ask for is what the caller passes, up to the last of them: clone(2).
EXPORT int clone(int (*run)(void *), void *stack, int flags, void *argument, ...) {
    bool third = flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID);
    bool second = third || (flags & CLONE_SETTLS);
    bool first = second || (flags & (CLONE_PARENT_SETTID | CLONE_PIDFD));
    void *parent_tid = NULL, *tls = NULL, *child_tid = NULL;
    va_list rest;
    va_start(rest, argument);
    if (first)                             // with CLONE_PIDFD: where the fd goes
        parent_tid = va_arg(rest, void *); // NOLINT(clang-analyzer-valist.Uninitialized): it is
    if (second)
        tls = va_arg(rest, void *);
    if (third)
        child_tid = va_arg(rest, void *);
    va_end(rest);
    tracker_before_clone((unsigned long)flags);
    return real_clone(run, stack, flags, argument, parent_tid, tls, child_tid);
}

pid_t _Fork(void);
EXPORT pid_t _Fork(void) {
    tracker_before_raw_fork();
    return real__Fork();
}

// Called by vfork_*.S.
void vfork_begins(void);
void vfork_begins(void) {
    tracker_note_fork();
}

// The copy takes system calls that a sandbox may not allow.
static void prepare_fork(void) {
    if (!owner_is_sandboxed() && !owner_is_other_process())
        tracker_before_fork();
}

// Before the program's own code runs in a forked child, also where fork was called inside libc. An
// atfork handler that another library registered before ours may have called a hook, and that has
// begun the child's ledger then.
static void continue_in_child(void) {
    if (owner_is_sandboxed())
        return;
    if (!owner_notices_forks() || owner_was_forked())
        tracker_continue_in_child();
    signals_continue();
}

// --- sandboxes ----------------------------------------------------------------------------------

bool sandboxing_begin(void) {
    if (owner_is_other_process())
        return false;
    owner_set_sandboxed(true);
    signals_give_back_ends();
    return true;
}

void sandboxing_done(bool begun, bool succeeded) {
    if (!begun || succeeded)
        return;
    owner_set_sandboxed(false);
    signals_continue();
}

EXPORT int prctl(int option, ...) {
    va_list rest;
    va_start(rest, option);
    unsigned long a = va_arg(rest, unsigned long);
    unsigned long b = va_arg(rest, unsigned long);
    unsigned long c = va_arg(rest, unsigned long);
    unsigned long d = va_arg(rest, unsigned long);
    va_end(rest);
    if (option != PR_SET_SECCOMP)
        return real_prctl(option, a, b, c, d);
    bool begun = sandboxing_begin();
    int result = real_prctl(option, a, b, c, d);
    sandboxing_done(begun, result == 0);
    return result;
}

// --- another root -------------------------------------------------------------------------------

EXPORT int chroot(const char *path) {
    tracker_before_new_root();
    return real_chroot(path);
}

// --- modules ------------------------------------------------------------------------------------

EXPORT int dlclose(void *library) {
    // Before and after: another thread may load and capture a stack while it is unloaded.
    module_unloaded();
    int result = real_dlclose(library);
    module_unloaded();
    return result;
}

// --- the beginning ------------------------------------------------------------------------------

static void before_ledger(void) {
    signals_install(real_sigaction);
}

static void begin_once(void) {
    static bool begun;
    if (__atomic_exchange_n(&begun, true, __ATOMIC_ACQ_REL))
        return;
    // Where the linker is in secure mode (a set-user-ID program that an administrator preloads us
    // into), the environment is another user's, and must not choose files for us.
    options_parse(secure_getenv("SOCKLEAK_OPTIONS"));
    output_remember_stderr();
    tracker_before_ledger = before_ledger;
    tracker_on_first_birth = trigger_first_birth;
    pthread_atfork(prepare_fork, ledger_fork_done_in_parent, continue_in_child);
    trigger_install();
}

void process_begin(void) {
    if (environ)
        begin_once();
    else // before libc's own constructor (.preinit_array): the rest waits for ours
        options_parse(NULL);
}

// Runs before main, but after the constructors of the libraries that the program is linked with: a
// preloaded library comes first in the search for symbols, and last in the order of constructors.
// A hook that one of those calls has come here already, through the resolver.
__attribute__((constructor)) static void constructor(void) {
    real_resolve();
    begin_once();
}
