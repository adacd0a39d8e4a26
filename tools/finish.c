// What is done to a report between gathering and rendering, in order.
#include "baseline.h"
#include "causes.h"
#include "group.h"
#include "holders.h"
#include "judge.h"
#include "sites.h"
#include "suppress.h"
#include "symbolize.h"
#include "time_wait.h"

static bool speaks_of_time_wait(const struct report *report) {
    struct time_wait_view view;
    time_wait_view(report, &view);
    bool matters = time_wait_matters(report, &view);
    time_wait_view_free(&view);
    return matters;
}

int report_finish(struct report *report, const struct report_options *options) {
    int result = 0, error;
    for (uint32_t i = 0; i < options->suppression_count; i++)
        if ((error = suppress_load(report, options->suppression_files[i])) < 0)
            result = error;
    judge_report(report, options);
    sites_count_sockets(report);
    causes_find(report);
    if (options->look_around)
        holders_find_processes(report);
    holders_find_ledgers(report);
    suppress_sockets(report);
    group_sockets(report);
    report->has_named_sites = options->sites || speaks_of_time_wait(report);
    symbolize_report(report, options->progress);
    sites_merge(report);
    time_wait_merge(report);
    causes_explain(report);
    group_fingerprint(report);
    suppress_findings(report);
    for (uint32_t i = 0; i < options->baseline_count; i++)
        if ((error = baseline_apply(report, options->baseline_files[i])) < 0)
            result = error;
    group_merge(report);
    report->is_finished = true;
    return result;
}

static bool is_failing_group(enum verdict_group group, uint32_t fail_on) {
    switch (group) {
    case GROUP_CLOSE_WAIT:
        return fail_on & FAIL_ON_CLOSE_WAIT;
    case GROUP_DEAD:
        return fail_on & FAIL_ON_DEAD;
    case GROUP_OPEN:
        return fail_on & FAIL_ON_OPEN;
    case GROUP_NONE:
        break;
    }
    return false;
}

uint64_t report_failures(const struct report *report, uint32_t fail_on) {
    uint64_t failures = 0;
    for (uint32_t i = 0; i < report->class_count; i++) {
        const struct report_finding *sample = report->classes[i].findings[0];
        if (!sample->suppressed_by && !sample->is_known &&
            is_failing_group(verdict_group(sample->verdict), fail_on))
            failures += report->classes[i].socket_count;
    }
    return failures;
}
