// The process that is followed: its ledger, and what becomes of it in a fork.
#include "base/clock.h"
#include "base/guard.h"
#include "base/options.h"
#include "base/process.h"
#include "track/tracking.h"
#include "track/unwinder.h"
#include <sched.h>

void (*tracker_before_ledger)(void);
void (*tracker_on_first_birth)(void);
HOT_DATA void (*tracker_on_activity)(void);
HOT_THREAD_LOCAL uint32_t tracking_tid;

static COLD void before_first_use(void) {
    owner_claim();
    if (tracker_before_ledger)
        tracker_before_ledger();
}

COLD bool tracking_make_ledger(void) {
    int created =
        ledger_create(options.ledger_dir, (uint32_t)options.stack_depth, before_first_use);
    if (created == 1) {
        clock_init();
        ledger_note_options((uint32_t)options.families, (uint32_t)options.grace_ms,
                            (uint32_t)options.exit_grace_ms);
        if (tracker_on_first_birth)
            tracker_on_first_birth();
    }
    return created >= 0;
}

COLD bool tracking_go_on_in_child(void) {
    tracker_continue_in_child();
    return ledger_exists();
}

bool tracker_has_ledger(void) {
    return tracker_active() && tracking_go_on();
}

void tracker_before_new_root(void) {
    // In the child of a fork the loader's lock may be another thread's, who is not in it. Without
    // libunwind stacks are one frame deep, and the report says so.
    if (tracking_begin() && process_is_single_threaded())
        unwinder_ready();
}

static void ask_before_fork(void) {
    if (tracker_active() && !process_is_single_threaded())
        unasked_end();
}

void tracker_before_fork(void) {
    ask_before_fork();
    ledger_prepare_fork();
}

void tracker_before_raw_fork(void) {
    ask_before_fork();
    tracker_note_fork();
}

void tracker_before_clone(unsigned long flags) {
    if (flags & CLONE_THREAD)
        return;
    if (!(flags & CLONE_VM)) {
        tracker_before_raw_fork();
        return;
    }
    tracker_note_fork();
    owner_expect_shared_memory();
}

void tracker_continue_in_child(void) {
    tracking_tid = 0;
    if (ledger_exists() && (ledger.header->counters.closed_unseen || ledger.header->counters.found))
        unasked_never = true; // the child counts from 0
    unwinder_continue_in_child();
    if (owner_pid() != 0) // also without a ledger: see owner_expect_shared_memory()
        owner_claim();
    if (ledger_exists())
        ledger_continue_in_child();
}
