// Linked into the command where it is built with COVERAGE=1: who watches goes on until a signal
// ends it, and that may be SIGKILL.
#include "watch.h"

void __gcov_dump(void);
void __gcov_reset(void);

// ld --wrap
void __real_watch_look(struct watch *watch, const struct report *report,
                       const struct watch_style *style, FILE *out);
void __wrap_watch_look(struct watch *watch, const struct report *report,
                       const struct watch_style *style, FILE *out);
void __wrap_watch_look(struct watch *watch, const struct report *report,
                       const struct watch_style *style, FILE *out) {
    __real_watch_look(watch, report, style, out);
    __gcov_dump();
    __gcov_reset();
}
