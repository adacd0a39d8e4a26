#include "report/trigger.h"
#include "base/format.h"
#include "base/options.h"
#include "base/output.h"
#include "base/owner.h"
#include "base/sys.h"
#include "ledger/ledger.h"
#include "report/report.h"
#include "track/tracker.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAIT_MS = 2000
};

static bool busy;   // a report is being written
static bool ending; // the last report was begun

static bool acquire(int wait_ms) {
    for (int ms = 0; __atomic_exchange_n(&busy, true, __ATOMIC_ACQUIRE); ms++) {
        if (ms >= wait_ms)
            return false;
        sys_sleep_ms(1);
    }
    return true;
}

static void release(void) {
    __atomic_store_n(&busy, false, __ATOMIC_RELEASE);
}

// A child of _Fork or of a raw clone ran no atfork handler, and may have called no hook before
// this.
static void continue_in_quiet_child(void) {
    if (!owner_was_forked())
        return;
    tracker_continue_in_child();
    trigger_continue_in_child();
}

int trigger_end(enum ledger_ended ended, int status, const char *when) {
    if (owner_is_other_process())
        return status;
    int saved_errno = errno;
    continue_in_quiet_child();
    // Somebody else's last report is under way when `ending` was set: acquire waits for it.
    bool first = !__atomic_exchange_n(&ending, true, __ATOMIC_ACQ_REL);
    bool mine = acquire(WAIT_MS);
    if (first && ledger_exists()) {
        uint64_t leaks = report_make(ended, when, false);
        ledger.header->end_status = status;
        __atomic_store_n(&ledger.header->ended, (uint32_t)ended, __ATOMIC_RELEASE);
        if (leaks && options.exitcode)
            status = (int)options.exitcode;
    } else if (first && ledger_creation_failed()) {
        report_note("no memory for the ledger: sockets were not followed");
    }
    if (mine)
        release();
    errno = saved_errno;
    return status;
}

void trigger_live(const char *when) {
    int saved_errno = errno;
    continue_in_quiet_child();
    if (!acquire(0)) {
        if (ledger_exists())
            ledger_count(&ledger.header->counters.reports_skipped);
    } else {
        if (ledger_exists())
            report_make(ENDED_RUNNING, when, true);
        release();
    }
    errno = saved_errno;
}

void trigger_continue_in_child(void) {
    __atomic_store_n(&busy, false, __ATOMIC_RELEASE);
    __atomic_store_n(&ending, false, __ATOMIC_RELEASE);
}

// Registered before the program's first instruction, and without a DSO handle: exit runs it after
// every atexit handler and every destructor, also those of other libraries, so that what they close
// is closed. Only stdio's buffers are written later.
static void at_exit(int status, void *unused) {
    (void)unused;
    int wanted = trigger_end(ENDED_EXIT, status, "at exit of");
    if (wanted == status)
        return;
    fflush(NULL);
    sys_call(SYS_exit_group, wanted, 0, 0, 0, 0, 0);
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
    struct output *out = NULL;
    static struct output memory; // once, before the program's first thread
    char problem[64], line[256];
    out = &memory;
    output_open(out, "", "", problem, sizeof problem);
    static const char head[] = "sockleak: SOCKLEAK_OPTIONS=name=value:name=value\n";
    output_write(out, head, sizeof head - 1);
    for (int i = 0;; i++) {
        struct text_buffer text = text_buffer(line, sizeof line);
        text_string(&text, "  ");
        if (!options_help(i, &text))
            break;
        text_char(&text, '\n');
        output_write(out, text.text, text.len_bytes);
    }
    output_close(out);
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
