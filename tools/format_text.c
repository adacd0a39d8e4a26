// The report as text, by the library's own renderer (report/text.h): here to a FILE, with names and
// lines from libdw, in colour where asked, and cut to the terminal's width.
#include "errors.h"
#include "format.h"
#include "format_json.h"
#include "format_sections.h"
#include "format_threads.h"
#include "suppress.h"
#include "text_lines.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    FRAME_COLUMN = 40, // of text.c: where a frame's place starts
    FUNCTION_MIN = 24, // columns that a function's name keeps
    PLACE_MIN = 24,
    NAMED_MAX = 8, // processes that one line names
    NAME_BYTES = 1024
};

#define BOLD "\033[1m"
#define RED "\033[1;31m"
#define YELLOW "\033[33m"
#define GREEN "\033[32m"

struct writer {
    const struct report *report;
    const struct render_options *options;
    struct text_lines lines;
    struct text_sink sink;
    const struct report_finding *finding; // whose stacks are being named
    char function[NAME_BYTES], file[NAME_BYTES];
};

// --- lines --------------------------------------------------------------------------------------

// A line that text.c has no words for.
static void say(struct writer *writer, const char *text) {
    text_lines_say(&writer->lines, writer->sink.pid, "%s", text);
}

static void note(struct writer *writer, const char *text) {
    text_note(&writer->sink, text);
}

// --- frames -------------------------------------------------------------------------------------

// Cuts from the middle of a name what is more than `room`: both its ends say something.
static void shorten(char *text, size_t room) {
    size_t len = strlen(text);
    if (len <= room || room < 8)
        return;
    size_t front = (room - 3) * 2 / 3, back = room - 3 - front;
    memcpy(text + front, "...", 3);
    memmove(text + front + 3, text + len - back, back + 1);
}

// Of a C++ function, the parameters go first.
static void drop_parameters(char *function) {
    size_t len = strlen(function);
    int depth = 0;
    if (len == 0 || function[len - 1] != ')')
        return;
    for (size_t i = len; i-- > 0;) {
        depth += function[i] == ')' ? 1 : function[i] == '(' ? -1 : 0;
        if (depth == 0) {
            if (i > 0)
                function[i] = '\0';
            return;
        }
    }
}

static void cut_front(char *path, size_t room) {
    size_t len = strlen(path);
    if (len <= room || room < 8)
        return;
    memmove(path, "...", 3);
    memmove(path + 3, path + len - (room - 3), room - 3 + 1);
}

// What does not fit a line of the terminal: "==PID==     #N FUNCTION   FILE:LINE".
static void fit(struct writer *writer) {
    char front[32];
    int margin = snprintf(front, sizeof front, "==%u== ", writer->sink.pid);
    size_t width = writer->options->width;
    size_t line = (size_t)margin + FRAME_COLUMN; // where the place starts, mostly
    if (width == 0)
        return;
    if (width < line + PLACE_MIN)
        width = line + PLACE_MIN;
    cut_front(writer->file, width - line - strlen(":12345"));
    size_t place = strlen(writer->file) + strlen(":12345");
    size_t room = width - (size_t)margin - strlen("    #12 ") - place - 1;
    if (room < FUNCTION_MIN)
        room = FUNCTION_MIN;
    if (strlen(writer->function) > room)
        drop_parameters(writer->function);
    shorten(writer->function, room);
}

static void copy(char *out, const char *text) {
    snprintf(out, NAME_BYTES, "%s", text ? text : "");
}

enum stack_number { // what the renderer's stack ids mean here
    STACK_BIRTH = 1,
    STACK_END_OF_STREAM,
    STACK_ERROR,
    STACK_SHUTDOWN
};

static const struct report_stack *stack_numbered(const struct report_socket *socket, uint32_t id) {
    switch (id) {
    case STACK_BIRTH:
        return socket->birth;
    case STACK_END_OF_STREAM:
        return socket->end_of_stream;
    case STACK_ERROR:
        return socket->error;
    case STACK_SHUTDOWN:
        return socket->shutdown;
    default:
        return NULL;
    }
}

static bool name_frame(void *context, uint32_t id, uint32_t index, struct text_frame *out) {
    struct writer *writer = context;
    const struct report_stack *stack = stack_numbered(writer->finding->sockets[0], id);
    if (!stack || index >= stack->frame_count)
        return false;
    const struct report_frame *frame = &stack->frames[index];
    copy(writer->function, frame->function);
    copy(writer->file, frame->file ? format_path(frame->file) : NULL);
    fit(writer);
    *out = (struct text_frame){
        .function = frame->function ? writer->function : NULL,
        .function_offset = frame->function_offset,
        .module = frame->module,
        .module_offset = frame->module_offset,
        .file = frame->file ? writer->file : NULL,
        .line = frame->line,
        .hidden = frame->hidden,
    };
    return true;
}

// --- findings -----------------------------------------------------------------------------------

// A record as the renderer wants it: with our numbers for its stacks.
static struct ledger_record record_of(const struct report_socket *socket) {
    struct ledger_record record = socket->record;
    record.birth_stack = socket->birth ? STACK_BIRTH : LEDGER_NO_STACK;
    record.eof_stack = socket->end_of_stream ? STACK_END_OF_STREAM : LEDGER_NO_STACK;
    record.error_stack = socket->error ? STACK_ERROR : LEDGER_NO_STACK;
    record.shutdown_stack = socket->shutdown ? STACK_SHUTDOWN : LEDGER_NO_STACK;
    return record;
}

static void name_processes(struct writer *writer, const struct report_class *merged) {
    char memory[TEXT_LINE_BYTES / 2];
    struct text_buffer line = text_buffer(memory, sizeof memory);
    text_string(&line, merged->finding_count == 1 ? "  in process " : "  in processes ");
    for (uint32_t i = 0; i < merged->finding_count && i < NAMED_MAX; i++) {
        const struct report_process *process = merged->findings[i]->process;
        text_string(&line, i ? ", " : "");
        text_decimal(&line, process->pid);
        text_string(&line, " ");
        text_foreign(&line, report_program(process));
    }
    if (merged->finding_count > NAMED_MAX) {
        text_string(&line, " and ");
        text_decimal(&line, merged->finding_count - NAMED_MAX);
        text_string(&line, " more");
    }
    say(writer, memory);
}

static void write_holders(struct writer *writer, const struct report_socket *socket) {
    for (uint32_t i = 0; i < socket->holder_count; i++) {
        const struct report_holder *holder = &socket->holders[i];
        text_lines_say(&writer->lines, writer->sink.pid, "    also open as fd %d in pid %u (%s)",
                       (int)holder->fd, holder->pid, holder->name);
    }
}

static void write_cause(struct writer *writer, const struct report_finding *finding) {
    if (finding->cause_text)
        text_cause(&writer->sink, finding->cause_text);
}

// What could have ended the wait, or kept others from having it.
static void write_hints(struct writer *writer, const struct report_class *merged) {
    char memory[TEXT_LINE_BYTES / 2];
    struct text_buffer line = text_buffer(memory, sizeof memory);
    uint32_t hints = 0;
    for (uint32_t i = 0; i < merged->finding_count; i++)
        hints |= report_finding_hints(merged->findings[i]) & HINTS_OF_PROPERTIES;
    for (int bit = 0; bit < HINT_COUNT; bit++)
        if (hints & 1u << bit) {
            text_string(&line, line.len_bytes ? ", " : "  hints: ");
            text_string(&line, format_json_hint(bit));
        }
    if (hints)
        say(writer, memory);
}

static void write_sockets(struct writer *writer, const struct report_class *merged) {
    uint32_t front = writer->sink.pid, listed = 0;
    for (uint32_t i = 0; i < merged->finding_count; i++) {
        const struct report_finding *finding = merged->findings[i];
        writer->sink.pid = finding->process->pid;
        for (uint32_t k = 0; k < finding->socket_count && listed < writer->options->max_sockets;
             k++, listed++) {
            const struct report_socket *socket = finding->sockets[k];
            struct ledger_record record = record_of(socket);
            text_socket(&writer->sink, &record,
                        socket->fd_count == record.fd_count && socket->fd_count ? socket->fds
                                                                                : NULL);
            write_holders(writer, socket);
        }
    }
    writer->sink.pid = front;
    if (listed)
        text_more(&writer->sink, merged->socket_count - listed);
    else // "more" than nothing would be odd
        text_lines_say(&writer->lines, front, "  %llu socket%s, none listed",
                       (unsigned long long)merged->socket_count,
                       merged->socket_count == 1 ? "" : "s");
}

// Of the sockets of a finding, the first one of which it is known which side sent its FIN first.
static const struct report_socket *most_telling(const struct report_finding *sample) {
    struct report_teardown steps;
    for (uint32_t i = 0; i < sample->socket_count; i++) {
        report_socket_teardown(sample->sockets[i], &steps);
        if (steps.first == TEARDOWN_FIRST_PEER || steps.first == TEARDOWN_FIRST_US)
            return sample->sockets[i];
    }
    return sample->sockets[0];
}

static void write_class(struct writer *writer, const struct report_class *merged, bool several) {
    const struct report_finding *sample = merged->findings[0];
    struct text_namer namer = {name_frame, writer};
    struct ledger_record record = record_of(sample->sockets[0]);
    writer->finding = sample;
    if (several)
        writer->sink.pid = sample->process->pid;
    // text_finding() writes its headline and the stacks at one go.
    writer->lines.style = sample->is_leak ? RED : YELLOW;
    writer->lines.style_once = true;
    text_finding(&writer->sink, sample->verdict, merged->socket_count, &record, &namer);
    if (several)
        name_processes(writer, merged);
    write_cause(writer, sample);
    if (writer->options->explain)
        write_hints(writer, merged);
    write_sockets(writer, merged);
    if (writer->options->explain)
        format_explain(most_telling(sample), &writer->lines, sample->process->pid);
}

static bool is_listed(const struct writer *writer, const struct report_class *merged) {
    const struct report_finding *sample = merged->findings[0];
    return format_is_shown(sample, writer->options) &&
           (!sample->is_known || writer->options->verbose);
}

// --- head and tail ------------------------------------------------------------------------------

static const char *when_of(const struct report_process *process) {
    if (process->unwatched && !process->is_observed)
        return "in what was seen of";
    switch (process->ended) {
    case REPORT_EXIT:
        return "at exit of";
    case REPORT_UNDERSCORE_EXIT:
        return "at _exit of";
    case REPORT_SIGNAL:
        switch (process->end_status) {
        case 128 + 1:
            return "at SIGHUP in";
        case 128 + 2:
            return "at SIGINT in";
        case 128 + 15:
            return "at SIGTERM in";
        default:
            return "at a signal in";
        }
    case REPORT_KILLED:
        return "as last known of the killed";
    case REPORT_EXEC:
        return "at exec in";
    case REPORT_RUNNING:
    case REPORT_ENDED_COUNT:
        break;
    }
    return process->is_observed ? "now in" : "as last known of the running";
}

static void write_head(struct writer *writer, uint32_t shown_processes) {
    const struct report *report = writer->report;
    struct text_head head = {0};
    char program[NAME_BYTES], when[64];
    for (uint32_t i = 0; i < report->class_count; i++) {
        const struct report_class *merged = &report->classes[i];
        const struct report_finding *sample = merged->findings[0];
        if (!sample->is_leak || sample->suppressed_by)
            continue;
        head.findings++;
        *(verdict_group(sample->verdict) == GROUP_DEAD ? &head.dead : &head.close_wait) +=
            merged->socket_count;
    }
    writer->lines.style = head.findings ? BOLD : GREEN;
    if (report->process_count == 1) {
        head.when = when_of(report->processes[0]);
        head.program = report_program(report->processes[0]);
    } else {
        if (shown_processes)
            snprintf(when, sizeof when, "in %u of", shown_processes);
        else
            snprintf(when, sizeof when, "in");
        snprintf(program, sizeof program, "%u processes%s%s", report->process_count,
                 writer->options->program ? " of " : "",
                 writer->options->program ? writer->options->program : "");
        head.when = when;
        head.program = program;
    }
    text_headline(&writer->sink, &head);
    writer->lines.style = NULL;
}

static void write_summary(struct writer *writer) {
    struct text_totals totals = {0};
    struct ledger_counters counters = {0};
    for (uint32_t i = 0; i < writer->report->process_count; i++) {
        const struct report_process *process = writer->report->processes[i];
        totals.close_wait += process->totals.close_wait;
        totals.dead += process->totals.dead;
        totals.open += process->totals.open;
        totals.inherited += process->totals.inherited;
        totals.not_tracked += process->totals.not_tracked;
        counters.closed += process->counters.closed;
    }
    writer->lines.style = BOLD;
    text_summary(&writer->sink, &totals, &counters);
    writer->lines.style = NULL;
}

static void note_loss(void *writer, const char *line) {
    note(writer, line);
}

static void write_limits(struct writer *writer) {
    char line[FORMAT_LIMIT_BYTES];
    format_each_loss(writer->report, note_loss, writer);
    format_exhaustion(writer->report, &writer->lines, writer->sink.pid);
    if (format_unwatched(writer->report, line, sizeof line))
        note(writer, line);
}

static void write_notes(struct writer *writer, bool several) {
    const struct report *report = writer->report;
    uint32_t front = writer->sink.pid;
    for (uint32_t i = 0; i < report->process_count; i++) {
        const struct report_process *process = report->processes[i];
        if (several)
            writer->sink.pid = process->pid;
        for (uint32_t k = 0; k < process->note_count; k++)
            note(writer, process->notes[k]);
    }
    writer->sink.pid = front;
    for (uint32_t i = 0; i < report->note_count; i++)
        note(writer, report->notes[i]);
}

static void write_rules(struct writer *writer) {
    const struct report *report = writer->report;
    const struct suppressions *all = report->suppressions;
    char text[TEXT_LINE_BYTES / 2];
    for (uint32_t i = 0; writer->options->verbose && all && i < all->count; i++)
        if (all->rules[i].sockets == 0) {
            snprintf(text, sizeof text, "unused suppression %s (%s:%u)", all->rules[i].text,
                     all->rules[i].file, all->rules[i].line);
            note(writer, text);
        }
    if (report->summary.known) {
        snprintf(text, sizeof text, "%llu of them known from the baseline%s",
                 (unsigned long long)report->summary.known,
                 writer->options->verbose ? "" : ", and not listed (--verbose lists them)");
        note(writer, text);
    }
    if (report->summary.suppressed || all) {
        snprintf(text, sizeof text, "%llu suppressed by %u rule%s",
                 (unsigned long long)report->summary.suppressed, report->summary.rules_used,
                 report->summary.rules_used == 1 ? "" : "s");
        note(writer, text);
    }
}

static uint32_t processes_with_leaks(const struct report *report) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->process_count; i++)
        count += report->processes[i]->totals.close_wait + report->processes[i]->totals.dead > 0;
    return count;
}

void format_text(const struct report *report, FILE *out, const struct render_options *options) {
    struct writer writer = {
        .report = report,
        .options = options,
        .lines = {.out = out, .color = options->color, .width = options->width},
    };
    bool several = report->process_count > 1;
    writer.sink.write_line = text_lines_write;
    writer.sink.context = &writer.lines;
    uint32_t front = report->process_count ? report->processes[0]->pid : 0;
    writer.sink.pid = front;
    write_head(&writer, processes_with_leaks(report));
    for (uint32_t i = 0; i < report->class_count; i++)
        if (is_listed(&writer, &report->classes[i]))
            write_class(&writer, &report->classes[i], several);
    writer.sink.pid = front;
    for (uint32_t i = 0; i < report->process_count; i++)
        format_threads(report->processes[i], &writer.lines, options->max_sockets);
    if (options->sites)
        format_sites(report, &writer.lines, front);
    bool has_time_wait = format_time_wait(report, &writer.lines, front, options->time_wait);
    if (options->sites || has_time_wait)
        text_lines_gap(&writer.lines, front);
    write_summary(&writer);
    writer.lines.style = YELLOW;
    write_limits(&writer);
    write_notes(&writer, several);
    writer.lines.style = NULL;
    write_rules(&writer);
}
