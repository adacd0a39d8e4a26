#include "report/report.h"
#include "base/apart.h"
#include "base/clock.h"
#include "base/guard.h"
#include "base/notice.h"
#include "base/options.h"
#include "base/output.h"
#include "base/sys.h"
#include "report/cause.h"
#include "report/exhaustion.h"
#include "report/facts.h"
#include "report/scratch.h"
#include "report/snapshot.h"
#include "report/symbols.h"
#include "report/text.h"
#include "report/threads.h"
#include "track/unwinder.h"
#include <errno.h>
#include <string.h>

enum {
    PROBLEM_BYTES = 1280,
    FDS_SHOWN_MAX = 8
};

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

// --- judging ------------------------------------------------------------------------------------

static void judge(struct report *report, enum ledger_ended ended) {
    report->rules = (struct verdict_rules){
        .at_end = ended != ENDED_RUNNING,
        .unix_sockets = options.families != FAMILIES_INET,
        .inet_sockets = options.families != FAMILIES_UNIX,
        .grace_ms = (uint32_t)options.grace_ms,
        .end_grace_ms = (uint32_t)options.exit_grace_ms,
    };
    for (uint32_t i = 0; i < report->snapshot.socket_count; i++) {
        struct ledger_record *record = ledger_record(report->snapshot.sockets[i]);
        enum verdict verdict = verdict_of(record, &report->rules);
        record->snapshot.verdict = (uint8_t)verdict;
        switch (verdict_group(verdict)) {
        case GROUP_CLOSE_WAIT:
            report->totals.close_wait++;
            break;
        case GROUP_DEAD:
            report->totals.dead++;
            break;
        case GROUP_OPEN:
            if (record->snapshot.flags & SNAPSHOT_HELD_BY_PARENT)
                report->totals.inherited++;
            else
                report->totals.open++;
            break;
        case GROUP_NONE:
            break;
        }
    }
}

// --- explaining ---------------------------------------------------------------------------------

static struct cause_facts facts_beside(const struct report *report,
                                       const struct ledger_record *record) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    return (struct cause_facts){
        .process = ledger.header->process,
        .grace_ms = report->rules.at_end ? report->rules.end_grace_ms : report->rules.grace_ms,
        .waited_on = snapshot->thread_fd_type ? ledger_record(snapshot->thread_fd_record) : NULL,
        .site = record->birth_stack ? &ledger.stacks[record->birth_stack] : NULL,
    };
}

static void explain(struct report *report) {
    const struct snapshot *snapshot = &report->snapshot;
    threads_look_at(snapshot, &report->scratch);
    for (uint32_t i = 0; i < snapshot->socket_count; i++) {
        struct ledger_record *record = ledger_record(snapshot->sockets[i]);
        struct cause_facts facts = facts_beside(report, record);
        if (verdict_is_leak((enum verdict)record->snapshot.verdict)) {
            facts_look_at_properties(record);
            if (facts.waited_on && !facts.waited_on->snapshot.properties_known)
                facts_look_at_properties(ledger_record(record->snapshot.thread_fd_record));
        }
        record->snapshot.cause = (uint8_t)cause_of(record, &facts);
    }
}

// 0 for sockets of one finding. Leaks come first.
static int compare_findings(const struct ledger_record *a, const struct ledger_record *b) {
    const uint64_t keys[][2] = {
        {a->snapshot.verdict, b->snapshot.verdict},
        {a->birth_stack, b->birth_stack},
        {a->birth_call, b->birth_call},
        {a->eof_stack, b->eof_stack},
        {a->error_stack, b->error_stack},
    };
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i][0] != keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    return 0;
}

static bool same_finding(uint32_t a, uint32_t b) {
    return compare_findings(ledger_record(a), ledger_record(b)) == 0;
}

// Orders sockets so that those of one finding are neighbours.
static int compare(uint32_t a_number, uint32_t b_number) {
    const struct ledger_record *a = ledger_record(a_number), *b = ledger_record(b_number);
    int order = compare_findings(a, b);
    return order ? order : (a->first_fd > b->first_fd) - (a->first_fd < b->first_fd);
}

static void sift_down(uint32_t *heap, uint32_t at, uint32_t count) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && compare(heap[child], heap[child + 1]) < 0)
            child++;
        if (compare(heap[at], heap[child]) >= 0)
            return;
        uint32_t swapped = heap[at];
        heap[at] = heap[child];
        heap[child] = swapped;
        at = child;
    }
}

// Heapsort: in place, no recursion, no bad case; libc's qsort may malloc.
static void sort(uint32_t *sockets, uint32_t count) {
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(sockets, i, count);
    for (uint32_t end = count; end-- > 1;) {
        uint32_t last = sockets[0];
        sockets[0] = sockets[end];
        sockets[end] = last;
        sift_down(sockets, 0, end);
    }
}

static bool is_shown(uint32_t number) {
    enum verdict verdict = (enum verdict)ledger_record(number)->snapshot.verdict;
    return verdict_is_leak(verdict) ||
           (options.show == SHOW_ALL && verdict_group(verdict) == GROUP_OPEN);
}

// --- naming -------------------------------------------------------------------------------------

static bool is_start_up(const char *function) {
    return function && (strcmp(function, "_start") == 0 || strcmp(function, "clone") == 0 ||
                        strcmp(function, "clone3") == 0 ||
                        strncmp(function, "__libc_start", strlen("__libc_start")) == 0 ||
                        strcmp(function, "start_thread") == 0);
}

static bool is_c_library(const struct ledger_module *module) {
    return strstr(ledger_string(module->path), "/libc.so.") != NULL;
}

static bool is_in_c_library(const struct ledger_stack *stack, uint32_t index) {
    uint32_t module = LEDGER_FRAME_MODULE(ledger.frames[stack->first_frame + index]);
    return module && is_c_library(&ledger.modules[module]);
}

// From here outwards there is nothing of the program's: libc's call of main or of the thread.
static bool is_outermost(const struct ledger_stack *stack, uint32_t index, const char *function) {
    if (is_start_up(function))
        return true;
    for (uint32_t i = index; i < stack->depth; i++)
        if (!is_in_c_library(stack, i))
            return i + 1 == stack->depth && i > index; // _start, behind libc's frames
    return true;
}

static const char *path_to_read(const struct ledger_module *module) {
    const char *path = ledger_string(module->path);
    // Also where the program was deleted or replaced since it started.
    return strcmp(path, ledger.header->exe) == 0 ? "/proc/thread-self/exe" : path;
}

static bool name_frame(void *context, uint32_t id, uint32_t index, struct text_frame *out) {
    struct report *report = context;
    const struct ledger_stack *stack = &ledger.stacks[id];
    if (index >= stack->depth)
        return false;
    uint64_t frame = ledger.frames[stack->first_frame + index];
    uint32_t number = LEDGER_FRAME_MODULE(frame);
    out->module_offset = LEDGER_FRAME_OFFSET(frame);
    if (number == 0)
        return true;
    const struct ledger_module *module = &ledger.modules[number];
    out->module = ledger_string(module->path);
    // A return address may be the first byte behind a function that ends in the call: look up the
    // call, which lies before it.
    out->function =
        symbols_name(&report->symbols, number, path_to_read(module), module->build_id,
                     module->build_id_bytes, out->module_offset - 1, &out->function_offset);
    if (out->function)
        out->function_offset++;
    out->hidden = is_outermost(stack, index, out->function);
    return true;
}

// --- writing ------------------------------------------------------------------------------------

static void write_line(void *context, const char *line, size_t len_bytes) {
    output_write(context, line, len_bytes);
}

static uint32_t fds_of(const struct report *report, uint32_t number, int32_t *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->snapshot.fd_count && count < FDS_SHOWN_MAX; i++)
        if (report->snapshot.fds[i].record == number)
            out[count++] = report->snapshot.fds[i].fd;
    return count;
}

static void write_cause(struct report *report, const struct ledger_record *sample) {
    char memory[TEXT_LINE_BYTES];
    struct text_buffer sentence = text_buffer(memory, sizeof memory);
    struct cause_facts facts = facts_beside(report, sample);
    cause_sentence(&sentence, (enum ledger_cause)sample->snapshot.cause, sample, &facts);
    text_cause(&report->sink, sentence.text);
}

static void write_finding(struct report *report, const uint32_t *sockets, uint32_t count) {
    const struct ledger_record *sample = ledger_record(sockets[0]);
    struct text_namer namer = {name_frame, report};
    text_finding(&report->sink, (enum verdict)sample->snapshot.verdict, count, sample, &namer);
    write_cause(report, sample);
    for (uint32_t i = 0; i < count && i < options.max_sockets; i++) {
        const struct ledger_record *record = ledger_record(sockets[i]);
        int32_t fds[FDS_SHOWN_MAX];
        bool listed = record->fd_count > 1 && record->fd_count <= FDS_SHOWN_MAX &&
                      fds_of(report, sockets[i], fds) == record->fd_count;
        text_socket(&report->sink, record, listed ? fds : NULL);
    }
    text_more(&report->sink, count > options.max_sockets ? count - options.max_sockets : 0);
}

static uint32_t finding_at(const struct report *report, uint32_t first) {
    uint32_t end = first + 1;
    while (end < report->snapshot.socket_count &&
           same_finding(report->snapshot.sockets[first], report->snapshot.sockets[end]))
        end++;
    return end;
}

static void count_findings(struct report *report) {
    for (uint32_t i = 0; i < report->snapshot.socket_count; i = finding_at(report, i))
        if (verdict_is_leak(
                (enum verdict)ledger_record(report->snapshot.sockets[i])->snapshot.verdict))
            report->findings++;
}

static void note_counted(struct report *report, uint64_t count, const char *what) {
    char memory[192];
    struct text_buffer note = text_buffer(memory, sizeof memory);
    if (count == 0)
        return;
    text_decimal(&note, count);
    text_string(&note, what);
    text_note(&report->sink, note.text);
}

// What we could not do. The last part of every report that has something to say here.
static void write_limits(struct report *report) {
    const struct ledger_counters *counters = &ledger.header->counters;
    if (ledger.header->file_cut_ns)
        text_note(&report->sink, "the ledger's file was truncated, or its disk failed: what was "
                                 "known of the sockets before is lost");
    note_counted(report, counters->untracked_records,
                 " sockets not tracked: ledger full, or no memory for it");
    note_counted(report, counters->untracked_fds,
                 " sockets not tracked: file descriptor beyond the ledger's table");
    note_counted(report, counters->stacks_lost,
                 " stacks not recorded: stack table full, or no memory for it");
    note_counted(report, report->snapshot.unrecorded,
                 " open sockets could not be judged: ledger full");
    note_counted(report, report->snapshot.unanswered,
                 " open sockets could not be judged: the kernel did not tell their state");
    note_counted(report, counters->snapshots_lost,
                 " reports given up: no memory to look at all sockets");
    if (unwinder_problem()[0])
        text_note(&report->sink, unwinder_problem());
    else
        note_counted(report, counters->stacks_call_site,
                     " times a stack is one frame deep: it could not be unwound there");
    if (report->snapshot.proc_missing)
        text_note(&report->sink, "/proc/self/fd cannot be read: file descriptors were tried one by "
                                 "one, and names are missing");
    if (report->snapshot.no_descriptor == -EMFILE)
        text_note(&report->sink,
                  "no file descriptor was free, and no thread could be made that has its own: what "
                  "the threads do is not known, nor what the parent has open");
    if (report->snapshot.no_descriptor == -ENFILE)
        text_note(&report->sink, "no file can be opened in this system: what the threads do is not "
                                 "known, nor what the parent has open");
    if (report->snapshot.incomplete)
        text_note(&report->sink, "no memory to look at all sockets: some are missing here");
    if (report->symbols.unreadable && !report->snapshot.proc_missing)
        text_note(&report->sink, "names are missing: a file that has them could not be read");
}

static void write_exhaustion(struct report *report) {
    char memory[TEXT_LINE_BYTES];
    struct text_buffer sentence = text_buffer(memory, sizeof memory);
    struct text_namer namer = {name_frame, report};
    exhaustion_sentence(&sentence, report->exhaustion);
    if (!report->findings && report->exhaustion->close_wait)
        text_string(&sentence, " (none for longer than grace_ms)");
    text_note(&report->sink, sentence.text);
    text_site(&report->sink, report->exhaustion->of_stack ? report->exhaustion->stack : 0, &namer);
}

static void write_text(struct report *report) {
    const struct snapshot *snapshot = &report->snapshot;
    struct text_head head = {report->totals.close_wait, report->totals.dead, report->findings,
                             report->when,
                             ledger.header->exe[0] ? ledger.header->exe : "this process"};
    if (ledger.header->cmdline_bytes) // as it was called: what its user recognises
        head.program = ledger.header->cmdline;
    if (report->exhaustion)
        write_exhaustion(report);
    // What is younger than grace_ms is not accused, and stands in the line above: "no socket
    // leaked" would contradict it.
    if (!report->exhaustion || report->findings)
        text_headline(&report->sink, &head);
    for (uint32_t i = 0; i < snapshot->socket_count;) {
        uint32_t end = finding_at(report, i);
        if (is_shown(snapshot->sockets[i]))
            write_finding(report, snapshot->sockets + i, end - i);
        i = end;
    }
    const struct ledger_counters *counters = &ledger.header->counters;
    report->totals.not_tracked =
        counters->untracked_records + counters->untracked_fds + snapshot->unrecorded;
    text_summary(&report->sink, &report->totals, counters);
    write_limits(report);
}

static void open_output(struct report *report, const char *log_path) {
    const char *exe = ledger_exists() ? ledger.header->exe : "";
    output_open(&report->output, log_path, exe, report->problem, sizeof report->problem);
    report->sink.write_line = write_line;
    report->sink.context = &report->output;
    report->sink.pid = (uint32_t)sys_getpid();
    if (report->problem[0])
        text_note(&report->sink, report->problem);
}

static void close_output(struct report *report) {
    bool was_log = report->output.is_file;
    if (output_close(&report->output) == 0 || !was_log)
        return;
    open_output(report, "");
    text_note(&report->sink, "log_path: the report could not be written to the end: no space left, "
                             "or a file size limit");
    output_close(&report->output);
}

static void write_all(void *context) {
    struct report *report = context;
    open_output(report, options.log_path);
    write_text(report);
    close_output(report);
}

// `sockleak run` has the ledger, and says the rest at the end: what it is told now is what has run
// out, and who has it.
static void notice_line(void *context, const char *line, size_t len_bytes) {
    struct notice notice = {.type = NOTICE_EXHAUSTED, .pid = *(const uint32_t *)context};
    size_t len = len_bytes && line[len_bytes - 1] == '\n' ? len_bytes - 1 : len_bytes;
    memcpy(notice.text, line, len < sizeof notice.text ? len : sizeof notice.text - 1);
    notice_send(options.ledger_dir, &notice);
}

static void tell_run(void *context) {
    struct report *report = context;
    report->sink.write_line = notice_line;
    report->sink.context = &report->sink.pid;
    report->sink.pid = (uint32_t)sys_getpid();
    write_exhaustion(report);
}

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
    judge(report, ended);
    explain(report);
    report->exhaustion = exhaustion;
    if (exhaustion)
        count_exhaustion(report);
    sort(report->snapshot.sockets, report->snapshot.socket_count);
    count_findings(report);
    uint64_t leaks = report->totals.close_wait + report->totals.dead;
    report->when = when;
    bool was_cut = of_file && ledger_left_file(); // what was found is of before and of behind
    if (!was_cut && wants_text(report, leaks, asked))
        apart_run(write_all, report); // the log and the files that have the names are opened there
    else if (exhaustion && ledger_is_file())
        apart_run(tell_run, report);
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

static void write_note(void *note) {
    static LARGE struct report memory; // there may be none for a scratch
    open_output(&memory, options.log_path);
    text_note(&memory.sink, note);
    close_output(&memory);
}

// One at a time: the trigger sees to that.
void report_note(const char *note) {
    apart_run(write_note, (void *)(uintptr_t)note);
}
