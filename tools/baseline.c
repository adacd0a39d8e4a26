#include "baseline.h"
#include "errors.h"
#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b) {
    return strcmp(a, b);
}

enum {
    PRINT_BYTES = sizeof((struct report_finding *)NULL)->fingerprint
};

// The fingerprints are computed anew from what the document shows, so that one of an earlier
// version, with other fingerprints, still serves.
static uint32_t collect(const struct report *baseline, char (*prints)[PRINT_BYTES]) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < baseline->process_count; i++)
        for (uint32_t k = 0; k < baseline->processes[i]->finding_count; k++, count++)
            if (prints)
                memcpy(prints[count], baseline->processes[i]->findings[k].fingerprint, PRINT_BYTES);
    return count;
}

int baseline_apply(struct report *report, const char *path) {
    struct report *baseline = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    int error = report_add_path(baseline, path);
    if (error == 0)
        error = report_finish(baseline, &options);
    if (error == 0) {
        uint32_t count = collect(baseline, NULL);
        char(*prints)[PRINT_BYTES] = must_allocate(count, sizeof *prints);
        collect(baseline, prints);
        qsort(prints, count, sizeof *prints, by_text);
        for (uint32_t i = 0; i < report->process_count; i++)
            for (uint32_t k = 0; k < report->processes[i]->finding_count; k++) {
                struct report_finding *finding = &report->processes[i]->findings[k];
                if (bsearch(finding->fingerprint, prints, count, sizeof *prints, by_text))
                    finding->is_known = true;
            }
        free(prints);
        report->has_baseline = true;
    }
    report_free(baseline);
    return error;
}
