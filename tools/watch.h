// Looking again and again: how the findings grow.
//
//     struct watch *watch = watch_new();
//     for (;;) {
//         ... report_finish(report, ...);
//         watch_look(watch, report, stdout, &look);
//     }
//     watch_free(watch);
#ifndef SOCKLEAK_TOOLS_WATCH_H
#define SOCKLEAK_TOOLS_WATCH_H

#include "format_options.h"

struct watch;

struct watch *watch_new(void);
void watch_free(struct watch *watch); // NULL is allowed

struct watch_style {
    const char *front; // of each line: "sockleak: "
    bool color;
    bool json; // one document a line
};

// Writes what is in a finished report as lines, with the growth since the look before: what grew
// most comes first. A finding is known by its fingerprint. The caller flushes.
void watch_look(struct watch *watch, const struct report *report, const struct watch_style *style,
                FILE *out);

#endif
