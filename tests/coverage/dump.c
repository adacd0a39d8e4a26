// Linked into the library where it is built with COVERAGE=1: writes gcov's counters at the ends
// that gcov does not see. It writes them when the library's destructors run; our last report is
// made after that, and _exit, a signal and exec run no destructors at all.
#include "base/owner.h"
#include "report/trigger.h"
#include "track/programs.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

void __gcov_dump(void);
void __gcov_reset(void);

// libgcov.h of GCC. Its destructor takes our counters off this list; while the list seems to be of
// another version, __gcov_dump and __gcov_reset keep to our own.
extern struct {
    unsigned version;
    void *root;
} __gcov_master;

static void for_our_counters(void (*function)(void)) {
    unsigned version = __gcov_master.version;
    __gcov_master.version = 0;
    function();
    __gcov_master.version = version;
}

// A program that lives within narrow limits is to find its own again, and no complaint of gcov's.
static void dump(void) {
    int saved_errno = errno;
    if (owner_is_sandboxed()) // a system call more would be the end of the process
        return;
    struct rlimit files, bytes, none = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_FSIZE, &bytes);
    struct rlimit more = {files.rlim_max, files.rlim_max};
    setrlimit(RLIMIT_NOFILE, &more);
    setrlimit(RLIMIT_FSIZE, &none);
    for_our_counters(__gcov_dump);
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_FSIZE, &bytes);
    errno = saved_errno;
}

// What is dumped once is not dumped again before a reset.
static void dump_and_go_on(void) {
    dump();
    for_our_counters(__gcov_reset);
}

// ld --wrap: calls from other files come here.
int __real_trigger_end(enum ledger_ended ended, int status, const char *when);
int __wrap_trigger_end(enum ledger_ended ended, int status, const char *when);
int __wrap_trigger_end(enum ledger_ended ended, int status, const char *when) {
    int wanted = __real_trigger_end(ended, status, when);
    dump_and_go_on();
    return wanted;
}

struct program_exec __real_program_exec_begin(const struct program_call *call);
struct program_exec __wrap_program_exec_begin(const struct program_call *call);
struct program_exec __wrap_program_exec_begin(const struct program_call *call) {
    struct program_exec exec = __real_program_exec_begin(call);
    dump_and_go_on();
    return exec;
}

static void dump_at_exit(int status, void *unused) {
    (void)status, (void)unused;
    dump();
}

static void reset_at_exit(int status, void *unused) {
    (void)status, (void)unused;
    for_our_counters(__gcov_reset);
}

// exit() runs what was registered last first: the destructors, with ours and then gcov's among
// them, reset_at_exit, trigger.c's at_exit, dump_at_exit. This object is linked last, so its
// constructors without a priority run last, too.
__attribute__((constructor(101))) static void before_the_library_begins(void) {
    on_exit(dump_at_exit, NULL);
    if (at_quick_exit(dump) != 0)
        abort(); // no memory
}

__attribute__((constructor)) static void after_the_library_began(void) {
    on_exit(reset_at_exit, NULL);
}

__attribute__((destructor)) static void before_gcov_ends(void) {
    dump();
}
