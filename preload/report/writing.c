// The text of a report, in the order in which it is read.
#include "base/notice.h"
#include "base/options.h"
#include "base/sys.h"
#include "report/exhaustion.h"
#include "report/parts.h"
#include "track/unwinder.h"
#include <errno.h>
#include <string.h>

enum {
    FDS_SHOWN_MAX = 8
};

static bool is_shown(uint32_t number) {
    enum verdict verdict = (enum verdict)ledger_record(number)->snapshot.verdict;
    return verdict_is_leak(verdict) ||
           (options.show == SHOW_ALL && verdict_group(verdict) == GROUP_OPEN);
}

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
    struct cause_facts facts = finding_facts(report, sample);
    cause_sentence(&sentence, (enum ledger_cause)sample->snapshot.cause, sample, &facts);
    text_cause(&report->sink, sentence.text);
}

static void write_finding(struct report *report, const uint32_t *sockets, uint32_t count) {
    const struct ledger_record *sample = ledger_record(sockets[0]);
    struct text_namer namer = {frame_name, report};
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
    else if (options.ledger_dir[0] && !ledger_is_file())
        text_note(&report->sink,
                  "no ledger could be kept in ledger_dir (no such directory, no "
                  "permission, no space, a file size limit, or a file system that may "
                  "lose pages): this report is all there is");
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
    struct text_namer namer = {frame_name, report};
    exhaustion_sentence(&sentence, report->exhaustion);
    if (!report->findings && report->exhaustion->close_wait)
        text_string(&sentence, " (none for longer than grace_ms: they count as open)");
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
        uint32_t end = finding_end(report, i);
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

void writing_text(void *context) {
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

void writing_to_run(void *context) {
    struct report *report = context;
    report->sink.write_line = notice_line;
    report->sink.context = &report->sink.pid;
    report->sink.pid = (uint32_t)sys_getpid();
    write_exhaustion(report);
}

void writing_note(void *note) {
    static LARGE struct report memory; // there may be none for a scratch
    open_output(&memory, options.log_path);
    text_note(&memory.sink, note);
    close_output(&memory);
}
