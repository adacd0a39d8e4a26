// The report as JSON: sockleak-report.schema.json. json_reader.c reads it.
#include "format_json.h"
#include "format.h"
#include "format_threads.h"
#include "report/names.h"
#include <netinet/in.h>
#include <sys/socket.h>

#define TEXT(object, key, value) format_json_set(object, key, format_json_text(value))
#define NUMBER(object, key, value)                                                                 \
    format_json_set(object, key, format_json_number((int64_t)(value)))
#define BOOLEAN(object, key, value) format_json_set(object, key, json_boolean(value))

static void set_known(json_t *object, const char *key, bool is_known, int64_t value) {
    format_json_set(object, key, is_known ? format_json_number(value) : json_null());
}

static void set_hex(json_t *object, const char *key, bool is_known, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "0x%llx", (unsigned long long)value);
    TEXT(object, key, is_known ? text : NULL);
}

// --- stacks -------------------------------------------------------------------------------------

static json_t *frame_of(const struct report_frame *frame) {
    json_t *object = json_object();
    TEXT(object, "function", frame->function);
    set_hex(object, "offset", frame->function && !frame->inlined, frame->function_offset);
    TEXT(object, "module", frame->module);
    set_hex(object, "module_offset", true, frame->module_offset);
    TEXT(object, "build_id", frame->build_id);
    TEXT(object, "file", frame->file);
    set_known(object, "line", frame->line != 0, frame->line);
    BOOLEAN(object, "inlined", frame->inlined);
    TEXT(object, "language", "native");
    return object;
}

void format_json_set_stack(json_t *object, const struct report_stack *stack) {
    json_t *frames = json_array();
    for (uint32_t i = 0; stack && i < stack->frame_count; i++)
        format_json_append(frames, frame_of(&stack->frames[i]));
    format_json_set(object, "stack", frames);
    BOOLEAN(object, "truncated", stack && stack->is_cut);
}

static json_t *call_of(const char *call, const struct report_stack *stack) {
    json_t *object = json_object();
    TEXT(object, "call", call);
    format_json_set_stack(object, stack);
    return object;
}

// --- sockets ------------------------------------------------------------------------------------

static const char *const hint_names[HINT_COUNT] = {
    "inherited",  "held-by-parent",  "reader-gone",       "duplicated",
    "last-known", "no-read-timeout", "blocked-elsewhere", "no-keepalive",
    "no-cloexec", "blocking-mode",   "unread-data"};

const char *format_json_hint(int bit) {
    return hint_names[bit];
}

const char *format_json_family(uint16_t family) {
    return family == AF_INET    ? "inet"
           : family == AF_INET6 ? "inet6"
           : family == AF_UNIX  ? "unix"
                                : NULL;
}

static const char *protocol_of(const struct ledger_record *record) {
    bool is_inet = record->family == AF_INET || record->family == AF_INET6;
    if (record->protocol == IPPROTO_MPTCP)
        return "mptcp";
    return is_inet && record->type == SOCK_STREAM ? "tcp" : NULL;
}

static void set_address(json_t *object, const char *key, const struct ledger_address *address) {
    char memory[80];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    text_address(&text, address);
    TEXT(object, key, address->family == ADDRESS_NONE ? NULL : memory);
}

// --- how a connection ended ---------------------------------------------------------------------

static json_t *event_of(const struct report_event *event) {
    static const char *const sides[] = {[TEARDOWN_FROM_PEER] = "peer",
                                        [TEARDOWN_FROM_US] = "us",
                                        [TEARDOWN_IN_PROGRAM] = "program"};
    const struct teardown_event *step = &event->event;
    json_t *object = json_object();
    TEXT(object, "who", sides[step->side]);
    TEXT(object, "what", teardown_step_name(step->step));
    BOOLEAN(object, "happened", step->happened);
    set_known(object, "at_ms_ago", event->ago_ms >= 0, event->ago_ms);
    set_known(object, "at_epoch_ms", event->epoch_ms >= 0, event->epoch_ms);
    TEXT(object, "time", teardown_time_name(step->time));
    TEXT(object, "state", step->state == STATE_UNKNOWN ? NULL : name_of_state(step->state));
    TEXT(object, "call", step->call == CALL_UNKNOWN ? NULL : name_of_call(step->call));
    TEXT(object, "error", step->error ? name_of_error(step->error) : NULL);
    set_known(object, "thread", step->thread != 0, step->thread);
    return object;
}

static void set_teardown(json_t *object, const struct report_socket *socket) {
    struct report_teardown steps;
    json_t *events = json_array();
    report_socket_teardown(socket, &steps);
    for (unsigned i = 0; i < steps.count; i++)
        format_json_append(events, event_of(&steps.events[i]));
    format_json_set(object, "teardown", events);
    TEXT(object, "first_fin", format_json_first_fin((int)steps.first));
}

const char *format_json_first_fin(int first) {
    switch (first) {
    case TEARDOWN_FIRST_PEER:
        return "peer";
    case TEARDOWN_FIRST_US:
        return "us";
    case TEARDOWN_FIRST_NOBODY:
        return "nobody";
    default:
        return NULL;
    }
}

static json_t *holders_of(const struct report_socket *socket) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < socket->holder_count; i++) {
        json_t *object = json_object();
        NUMBER(object, "pid", socket->holders[i].pid);
        TEXT(object, "name", socket->holders[i].name);
        NUMBER(object, "fd", socket->holders[i].fd);
        format_json_append(array, object);
    }
    return array;
}

static json_t *hints_of(uint32_t hints) {
    json_t *array = json_array();
    for (int bit = 0; bit < HINT_COUNT; bit++)
        if (hints & 1u << bit)
            format_json_append(array, format_json_text(hint_names[bit]));
    return array;
}

static json_t *socket_of(const struct report_socket *socket) {
    const struct ledger_record *record = &socket->record;
    const struct ledger_snapshot *snapshot = &record->snapshot;
    bool has_state = (snapshot->flags & SNAPSHOT_TAKEN) && snapshot->state != STATE_UNKNOWN;
    bool has_queues = snapshot->flags & SNAPSHOT_HAS_QUEUES;
    int64_t open_ms = report_socket_open_ms(socket), fin_age_ms = report_socket_fin_age_ms(socket);
    json_t *object = json_object(), *fds = json_array();
    for (uint32_t i = 0; i < socket->fd_count; i++)
        format_json_append(fds, format_json_number(socket->fds[i]));
    format_json_set(object, "fds", fds);
    NUMBER(object, "fds_closed", record->fds_closed);
    NUMBER(object, "inode", record->inode);
    TEXT(object, "family", format_json_family(record->family));
    TEXT(object, "protocol", protocol_of(record));
    set_address(object, "local", &record->local);
    set_address(object, "peer", &record->peer);
    TEXT(object, "state", has_state ? name_of_state(snapshot->state) : NULL);
    set_known(object, "open_ms", open_ms >= 0, open_ms);
    set_known(object, "fin_age_ms", fin_age_ms >= 0, fin_age_ms);
    BOOLEAN(object, "fin_age_is_bound", fin_age_ms >= 0 && report_socket_fin_is_bound(socket));
    set_known(object, "state_age_ms", has_state && (snapshot->flags & SNAPSHOT_HAS_TCP_INFO),
              snapshot->state_age_ms);
    BOOLEAN(object, "state_age_is_bound", snapshot->flags & SNAPSHOT_AGE_IS_BOUND);
    set_known(object, "recv_queue", has_queues, snapshot->recv_queue_bytes);
    set_known(object, "send_queue", has_queues, snapshot->send_queue_bytes);
    set_known(object, "thread", record->birth_tid != 0, record->birth_tid);
    set_known(object, "end_of_stream_thread", record->eof_tid != 0, record->eof_tid);
    format_json_set(object, "hints", hints_of(socket->hints));
    set_teardown(object, socket);
    format_json_set(object, "also_open_in", holders_of(socket));
    TEXT(object, "cause", cause_name((enum ledger_cause)snapshot->cause));
    return object;
}

// --- findings -----------------------------------------------------------------------------------

static json_t *finding_of(const struct report_finding *finding) {
    const struct report_socket *sample = finding->sockets[0];
    const struct ledger_record *record = &sample->record;
    json_t *object = json_object(), *sockets = json_array();
    TEXT(object, "verdict", verdict_name(finding->verdict));
    TEXT(object, "group", verdict_group_name(verdict_group(finding->verdict)));
    NUMBER(object, "count", finding->socket_count);
    TEXT(object, "suppressed_by", finding->suppressed_by);
    BOOLEAN(object, "known", finding->is_known);
    TEXT(object, "fingerprint", finding->fingerprint);
    TEXT(object, "cause", cause_name(finding->cause));
    TEXT(object, "cause_text", finding->cause_text);
    format_json_set(object, "hints", hints_of(report_finding_hints(finding)));
    json_t *birth = call_of(report_birth_call(sample), sample->birth);
    TEXT(birth, "provenance", name_of_provenance(record->provenance));
    format_json_set(object, "birth", birth);
    format_json_set(object, "end_of_stream",
                    record->eof_ns ? call_of(name_of_call(record->eof_call), sample->end_of_stream)
                                   : json_null());
    json_t *error = json_null();
    if (record->error) {
        error = call_of(name_of_call(record->error_call), sample->error);
        TEXT(error, "error", name_of_error(record->error));
    }
    format_json_set(object, "error", error);
    format_json_set(object, "shutdown",
                    sample->shutdown ? call_of("shutdown", sample->shutdown) : json_null());
    for (uint32_t i = 0; i < finding->socket_count; i++)
        format_json_append(sockets, socket_of(finding->sockets[i]));
    format_json_set(object, "sockets", sockets);
    return object;
}

// --- processes ----------------------------------------------------------------------------------

#define COUNTER(name)                                                                              \
    { #name, offsetof(struct ledger_counters, name) }
#define EXHAUSTED(name, kind)                                                                      \
    { "exhausted_" #name, offsetof(struct ledger_counters, exhausted[EXHAUSTED_##kind]) }
const struct format_json_counter format_json_counters[] = {
    COUNTER(born),
    COUNTER(inherited),
    COUNTER(found),
    COUNTER(closed),
    COUNTER(closed_unseen),
    COUNTER(untracked_records),
    COUNTER(untracked_fds),
    COUNTER(stacks_lost),
    COUNTER(stacks_call_site),
    COUNTER(reports_skipped),
    COUNTER(snapshots_lost),
    COUNTER(destinations_lost),
    EXHAUSTED(process_fds, PROCESS_FDS),
    EXHAUSTED(system_fds, SYSTEM_FDS),
    EXHAUSTED(ports, PORTS),
    EXHAUSTED(memory, MEMORY),
    EXHAUSTED(max_open, MAX_OPEN),
    EXHAUSTED(max_close_wait, MAX_CLOSE_WAIT),
    EXHAUSTED(leak_after, LEAK_AFTER),
    {0}};

static json_t *counters_of(const struct ledger_counters *counters) {
    json_t *object = json_object();
    for (const struct format_json_counter *c = format_json_counters; c->key; c++)
        NUMBER(object, c->key, *(const uint64_t *)((const char *)counters + c->offset));
    NUMBER(object, "untracked", counters->untracked_records + counters->untracked_fds);
    return object;
}

static json_t *texts_of(const char *const *texts, uint32_t count) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        format_json_append(array, format_json_text(texts[i]));
    return array;
}

static json_t *process_of(const struct report_process *process,
                          const struct render_options *options) {
    json_t *object = json_object(), *findings = json_array();
    NUMBER(object, "pid", process->pid);
    set_known(object, "ppid", process->parent_pid != 0, process->parent_pid);
    TEXT(object, "exe", process->exe[0] ? process->exe : NULL);
    format_json_set(object, "cmdline", texts_of(process->cmdline, process->cmdline_count));
    TEXT(object, "ended",
         process->unwatched && !process->is_observed ? NULL : report_ended_name(process->ended));
    set_known(object, "end_status", process->has_end_status, process->end_status);
    // What was still running will have more to tell: then both count.
    TEXT(object, "ledger", process->ended == REPORT_RUNNING ? NULL : process->ledger);
    TEXT(object, "unwatched", process->unwatched);
    if (format_may_miss_children(process))
        format_json_set(object, "children_may_be_unwatched", json_true());
    format_json_set(object, "counters", counters_of(&process->counters));
    NUMBER(object, "open", process->totals.open);
    NUMBER(object, "inherited", process->totals.inherited);
    for (uint32_t i = 0; i < process->finding_count; i++)
        if (process->findings[i].is_leak || options->show_all)
            format_json_append(findings, finding_of(&process->findings[i]));
    format_json_set(object, "findings", findings);
    json_t *threads = format_json_threads(process);
    if (threads)
        format_json_set(object, "threads", threads);
    format_json_set(object, "notes", texts_of(process->notes, process->note_count));
    return object;
}

static json_t *summary_of(const struct report *report) {
    json_t *object = json_object();
    NUMBER(object, "leaks", report->summary.leaks);
    NUMBER(object, "findings", report->summary.findings);
    NUMBER(object, "suppressed", report->summary.suppressed);
    NUMBER(object, "processes", report->process_count);
    NUMBER(object, "known", report->summary.known);
    NUMBER(object, "open", report->summary.open);
    NUMBER(object, "unwatched", report->summary.unwatched);
    return object;
}

void format_json(const struct report *report, FILE *out, const struct render_options *options) {
    json_t *document = json_object(), *tool = json_object(), *processes = json_array();
    TEXT(document, "schema", FORMAT_JSON_SCHEMA);
    TEXT(tool, "name", "sockleak");
    TEXT(tool, "version", SOCKLEAK_VERSION);
    format_json_set(document, "tool", tool);
    for (uint32_t i = 0; i < report->process_count; i++)
        format_json_append(processes, process_of(report->processes[i], options));
    format_json_set(document, "processes", processes);
    format_json_set(document, "sites", format_json_sites(report));
    format_json_set(document, "time_wait", format_json_time_wait(report));
    format_json_set(document, "notes", texts_of(report->notes, report->note_count));
    format_json_set(document, "summary", summary_of(report));
    json_dumpf(document, out, FORMAT_JSON_ASCII | JSON_INDENT(2));
    fputc('\n', out);
    json_decref(document);
}
