#include "report/trigger.h"
#include "base/format.h"
#include "base/options.h"
#include "base/output.h"
#include "base/owner.h"
#include "base/sys.h"
#include "ledger/ledger.h"
#include "report/exhaustion.h"
#include "report/report.h"
#include "track/tracker.h"
#include "track/without_file.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAIT_MS = 2000
};

// Pids, not flags: what a forked child finds here is its parent's, whichever way it was forked.
static int busy;   // who is writing a report, or 0
static int ending; // who has begun its last report, or 0

static bool acquire(int self, int wait_ms) {
    for (int ms = 0;; ms++) {
        int holder = __atomic_load_n(&busy, __ATOMIC_RELAXED);
        if (holder != self && __atomic_compare_exchange_n(&busy, &holder, self, false,
                                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return true;
        if (ms >= wait_ms)
            return false;
        sys_sleep_ms(1);
    }
}

static void release(void) {
    __atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
}

// A child of _Fork or of a raw clone ran no atfork handler, and may have called no hook before
// this.
static void continue_in_quiet_child(void) {
    if (owner_was_forked())
        tracker_continue_in_child();
}

static uint64_t last_report(enum ledger_ended ended, int status, const char *when) {
    uint64_t leaks = report_make(ended, when, false);
    ledger.header->end_status = status;
    __atomic_store_n(&ledger.header->ended, (uint32_t)ended, __ATOMIC_RELEASE);
    if (report_was_left_to_file() && ledger_left_file()) // cut since, and there is none any more
        report_make(ended, when, true);
    return leaks;
}

// Signals are blocked in all three below: one that ends the process in the middle of a report would
// wait for that report, in the same thread. It is taken afterwards.

int trigger_end(enum ledger_ended ended, int status, const char *when) {
    if (owner_is_other_process())
        return status;
    int saved_errno = errno, self = sys_getpid();
    uint64_t signals = sys_block_signals();
    continue_in_quiet_child();
    // Somebody else's last report is under way when `ending` was set: acquire waits for it.
    bool first = __atomic_exchange_n(&ending, self, __ATOMIC_ACQ_REL) != self;
    bool mine = acquire(self, WAIT_MS);
    if (first && ledger_exists()) {
        uint64_t leaks = last_report(ended, status, when);
        without_file_ended(leaks);
        if (leaks && options.exitcode)
            status = (int)options.exitcode;
    } else if (first && ledger_creation_failed()) {
        report_note("no memory for the ledger: sockets were not followed");
    }
    if (mine)
        release();
    sys_set_signal_mask(signals);
    errno = saved_errno;
    return status;
}

void trigger_live(const char *when) {
    int saved_errno = errno;
    uint64_t signals = sys_block_signals();
    continue_in_quiet_child();
    if (!acquire(sys_getpid(), 0)) {
        if (ledger_exists())
            ledger_count(&ledger.header->counters.reports_skipped);
    } else {
        if (ledger_exists())
            report_make(ENDED_RUNNING, when, true);
        release();
    }
    sys_set_signal_mask(signals);
    errno = saved_errno;
}

bool trigger_exhausted(struct exhaustion *exhaustion) {
    int saved_errno = errno;
    uint64_t signals = sys_block_signals();
    continue_in_quiet_child();
    bool made = acquire(sys_getpid(), 0);
    if (made) {
        if (ledger_exists())
            report_make_exhausted(exhaustion);
        release();
    } else if (ledger_exists()) {
        ledger_count(&ledger.header->counters.reports_skipped);
    }
    sys_set_signal_mask(signals);
    errno = saved_errno;
    return made;
}

// Registered before the program's first instruction, and without a DSO handle: exit runs it after
// every atexit handler and every destructor, also those of other libraries, so that what they close
// is closed. Only stdio's buffers are written later.
static void at_exit(int status, void *unused) {
    (void)unused;
    int wanted = trigger_end(ENDED_EXIT, status, "at exit of");
    // exit in a handler is undefined by POSIX. glibc goes on with the handlers that are left, and
    // writes stdio's buffers without their locks, as it would have done: fflush(NULL) here would
    // wait for the lock of a stream that another thread reads.
    if (wanted != status)
        exit(wanted);
}

static int quick_status;

void trigger_expect_quick_exit(int status) {
    quick_status = status;
}

static void at_quick(void) {
    int wanted = trigger_end(ENDED_QUICK_EXIT, quick_status, "at quick_exit of");
    if (wanted != quick_status)
        sys_call(SYS_exit_group, wanted, 0, 0, 0, 0, 0);
}

static void print_help(void) {
    static LARGE struct output out; // once, before the program's first thread
    char problem[64], line[256];
    output_open(&out, "", "", problem, sizeof problem);
    static const char head[] = "sockleak: SOCKLEAK_OPTIONS=name=value:name=value\n";
    output_write(&out, head, sizeof head - 1);
    for (int i = 0;; i++) {
        struct text_buffer text = text_buffer(line, sizeof line);
        text_string(&text, "  ");
        if (!options_help(i, &text))
            break;
        text_char(&text, '\n');
        output_write(&out, text.text, text.len_bytes);
    }
    output_close(&out);
}

void trigger_install(void) {
    on_exit(at_exit, NULL);
    if (at_quick_exit(at_quick) != 0)
        return; // no memory, at the program's start: it will not get far
    if (options.help)
        print_help();
}

void trigger_first_birth(void) {
    int saved_errno = errno;
    exhaustion_begin();
    without_file_begun();
    const char *line = options.problems;
    while (*line) {
        char memory[OPTION_PROBLEMS_BYTES];
        size_t len = strcspn(line, "\n");
        memcpy(memory, line, len);
        memory[len] = '\0';
        report_note(memory);
        line += len + (line[len] == '\n');
    }
    errno = saved_errno;
}
