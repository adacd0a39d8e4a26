// What the four files behind report.h share: report.c, findings.c, frames.c and writing.c.
//
// One report at a time, in the thread that makes it; signal-safe, no malloc, no lock.
#ifndef SOCKLEAK_REPORT_PARTS_H
#define SOCKLEAK_REPORT_PARTS_H

#include "base/output.h"
#include "ledger/ledger.h"
#include "report/cause.h"
#include "report/scratch.h"
#include "report/snapshot.h"
#include "report/symbols.h"
#include "report/text.h"
#include "report/verdict.h"

enum {
    PROBLEM_BYTES = 1280
};

struct exhaustion;

// One report, in its own scratch: too large for the stack that a signal handler has.
struct report {
    struct scratch scratch;
    struct snapshot snapshot;
    struct verdict_rules rules;
    struct symbols symbols;
    struct output output;
    struct text_sink sink;
    struct text_totals totals;
    uint64_t findings;
    struct exhaustion *exhaustion; // NULL: another occasion
    const char *when;
    char problem[PROBLEM_BYTES];
};

// --- findings.c: sockets of one verdict and one story ------------------------------------------

// Gives each socket of the snapshot its verdict, and counts them.
void findings_judge(struct report *report, enum ledger_ended ended);

// Gives each socket its cause, once they are judged. Looks at the threads and, of leaked sockets,
// at what the kernel tells of them.
void findings_explain(struct report *report);

// Orders the sockets so that those of one finding are neighbours, leaks first, and counts the
// findings that are leaks.
void findings_sort(struct report *report);

// Where the finding ends that begins with the snapshot's socket at `first`: the next one's first.
uint32_t finding_end(const struct report *report, uint32_t first);

// What a cause is told by, beside the record itself.
struct cause_facts finding_facts(const struct report *report, const struct ledger_record *record);

// --- frames.c ----------------------------------------------------------------------------------

// A text_namer's function, whose context is the report: names frame `index` of stack `id`. Reads
// the file that has the names. False: the stack has no such frame.
bool frame_name(void *report, uint32_t id, uint32_t index, struct text_frame *out);

// --- writing.c ---------------------------------------------------------------------------------

// For apart_run(): the whole text, to stderr or log_path.
void writing_text(void *report);

// For apart_run(): what has run out, to the command that has the ledger (base/notice.h).
void writing_to_run(void *report);

// For apart_run(): one line, a string, to where reports go.
void writing_note(void *note);

#endif
