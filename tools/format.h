// The formats: each writes a finished report to a stream. See report_write() in model.h. They may
// leave checking the stream for errors to their caller.
#ifndef SOCKLEAK_TOOLS_FORMAT_H
#define SOCKLEAK_TOOLS_FORMAT_H

#include "model.h"
#include <jansson.h>

void format_text(const struct report *report, FILE *out, const struct render_options *options);
void format_json(const struct report *report, FILE *out, const struct render_options *options);
void format_junit(const struct report *report, FILE *out, const struct render_options *options);
void format_sarif(const struct report *report, FILE *out, const struct render_options *options);
void format_github(const struct report *report, FILE *out, const struct render_options *options);
void format_folded(const struct report *report, FILE *out, const struct render_options *options);
void format_pprof(const struct report *report, FILE *out, const struct render_options *options);

// --- what they share ----------------------------------------------------------------------------

// True for what a reader should see: leaks that no rule suppressed, and with show_all open sockets.
bool format_is_shown(const struct report_finding *finding, const struct render_options *options);

// A source file as the user knows it: relative to the current directory where it lies below it.
const char *format_path(const char *file);

// "3 sockets left in CLOSE_WAIT, eof-ignored: the peer closed, ..." in `out`.
void format_title(const struct report_class *merged, char *out, size_t out_bytes);

// A stack as lines for people, "  #0 function at file:line". Frames that are hidden are left out.
void format_stack_lines(const struct report_stack *stack,
                        void (*line)(void *context, const char *text), void *context);

// The heading of a finding's stack number `index` (opened by, end of stream read by ...) and the
// stack, which may be NULL; false behind the last.
bool format_stack_at(const struct report_finding *finding, int index, char *heading,
                     size_t heading_bytes, const struct report_stack **stack);

// What the report could not see, a line each: processes that could not be watched, what was lost,
// and its notes.
enum {
    FORMAT_LIMIT_BYTES = TEXT_LINE_BYTES - 64 // of one
};
void format_each_limit(const struct report *report, void (*each)(void *context, const char *line),
                       void *context);

// The parts of that. "2 processes could not be watched: 4711 /bin/a (statically linked), ..." in
// `out`, cut where it does not fit; false where there are none.
bool format_unwatched(const struct report *report, char *out, size_t out_bytes);
void format_each_loss(const struct report *report, void (*each)(void *context, const char *line),
                      void *context);

// Whether programs that an unwatched process started may be unwatched, too, and not in the report:
// nobody looked at them before they ran, and one that lived for some milliseconds was not met.
bool format_may_miss_children(const struct report_process *process);

// For json_dumpf(). A name may hold what moves a terminal's cursor or turns text around (C1
// controls, U+202E): escaped, it is still the name, and harmless where the JSON is shown.
#define FORMAT_JSON_ASCII JSON_ENSURE_ASCII

// JSON that cannot be made ends the program: there is no memory. Text of any bytes; NULL is null.
json_t *format_json_text(const char *text);
json_t *format_json_number(int64_t number);
void format_json_set(json_t *object, const char *key, json_t *value);
void format_json_append(json_t *array, json_t *value);
void format_json_set_stack(json_t *object, const struct report_stack *stack); // and "truncated"

// The parts of the document that tell of call sites, and of TIME_WAIT.
json_t *format_json_sites(const struct report *report);
json_t *format_json_time_wait(const struct report *report);

#endif
