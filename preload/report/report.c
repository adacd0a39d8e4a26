#include "report/report.h"
#include "base/apart.h"
#include "base/guard.h"
#include "base/options.h"
#include "report/exhaustion.h"
#include "report/parts.h"

static struct report *open_report(void) {
    struct scratch scratch;
    if (scratch_open(&scratch) < 0)
        return NULL;
    struct report *report = scratch_take(&scratch, sizeof *report);
    if (report) {
        report->scratch = scratch;
        report->symbols.scratch = &report->scratch;
    }
    return report;
}

static void close_report(struct report *report) {
    struct scratch scratch = report->scratch; // the report lies in what is given back
    scratch_close(&scratch);
}

static bool left_to_file; // what the last report found

bool report_was_left_to_file(void) {
    return left_to_file;
}

static bool wants_text(const struct report *report, uint64_t leaks, bool asked) {
    // What could not be judged may be a leak: silence would be a lie, and a ledger does not tell.
    if (asked || options.verbosity > 0 || report->snapshot.unrecorded ||
        report->snapshot.unanswered || report->snapshot.incomplete)
        return true;
    left_to_file = leaks > 0 && ledger_is_file() && !options.log_path[0];
    return leaks > 0 && !left_to_file;
}

static void count_exhaustion(struct report *report) {
    uint64_t stacks = ledger.header->regions[LEDGER_STACKS].used;
    exhaustion_count(report->exhaustion, report->snapshot.sockets, report->snapshot.socket_count,
                     scratch_take(&report->scratch, (size_t)stacks * sizeof(uint32_t)));
}

static uint64_t make(enum ledger_ended ended, const char *when, bool asked,
                     struct exhaustion *exhaustion) {
    guard_enter();
    left_to_file = false;
    bool of_file = ledger_is_file();
    struct report *report = open_report();
    if (!report || snapshot_take(&report->snapshot, &report->scratch, ended) < 0) {
        ledger_count(&ledger.header->counters.snapshots_lost);
        if (report)
            close_report(report);
        report_note("no memory to look at the sockets: no report");
        guard_leave();
        return 0;
    }
    findings_judge(report, ended);
    findings_explain(report);
    report->exhaustion = exhaustion;
    if (exhaustion)
        count_exhaustion(report);
    findings_sort(report);
    uint64_t leaks = report->totals.close_wait + report->totals.dead;
    report->when = when;
    bool was_cut = of_file && ledger_left_file(); // what was found is of before and of behind
    if (!was_cut && wants_text(report, leaks, asked))
        apart_run(writing_text, report); // opens the log, and the files that have the names
    else if (exhaustion && ledger_is_file())
        apart_run(writing_to_run, report);
    snapshot_release(&report->snapshot);
    close_report(report);
    guard_leave();
    return was_cut ? make(ended, when, asked || exhaustion, exhaustion) : leaks;
}

uint64_t report_make(enum ledger_ended ended, const char *when, bool asked) {
    return make(ended, when, asked, NULL);
}

uint64_t report_make_exhausted(struct exhaustion *exhaustion) {
    return make(ENDED_RUNNING, exhaustion_when(exhaustion), !ledger_is_file(), exhaustion);
}

// One at a time: the trigger sees to that.
void report_note(const char *note) {
    apart_run(writing_note, (void *)(uintptr_t)note);
}
