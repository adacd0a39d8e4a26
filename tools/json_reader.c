#include "json_reader.h"
#include "errors.h"
#include "format_json.h"
#include "json_sites_reader.h"
#include "json_values.h"
#include "report/names.h"
#include <errno.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    DOCUMENT_MAX_BYTES = 256 << 20,
    FDS_MAX = 1 << 20,
    HOLDERS_MAX = 64 // of one socket
};

// Times of a document are ages. They are counted back from here, so that they fit the ledger's.
static const uint64_t now_ns = UINT64_MAX / 4;

// --- sockets ------------------------------------------------------------------------------------

static void read_kind(struct ledger_record *record, const json_t *object) {
    static const uint16_t families[] = {AF_INET, AF_INET6, AF_UNIX};
    const char *family = value_text(object, "family"), *protocol = value_text(object, "protocol");
    for (size_t i = 0; family && i < sizeof families / sizeof *families; i++)
        if (strcmp(format_json_family(families[i]), family) == 0)
            record->family = families[i];
    record->type = SOCK_STREAM;
    record->protocol = protocol && strcmp(protocol, "mptcp") == 0 ? IPPROTO_MPTCP : 0;
}

static void read_snapshot(struct ledger_snapshot *snapshot, const json_t *object) {
    snapshot->state = value_state(value_text(object, "state"));
    if (snapshot->state == STATE_UNKNOWN)
        return;
    snapshot->flags = SNAPSHOT_TAKEN;
    snapshot->taken_ns = now_ns;
    int64_t age_ms = value_number(object, "state_age_ms", UINT32_MAX, -1);
    if (age_ms < 0)
        age_ms = value_number(object, "fin_age_ms", UINT32_MAX, -1);
    if (age_ms >= 0) {
        snapshot->state_age_ms = (uint32_t)age_ms;
        snapshot->flags |= SNAPSHOT_HAS_TCP_INFO;
    }
    if (json_is_true(json_object_get(object, "state_age_is_bound")))
        snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
    int64_t unread = value_number(object, "recv_queue", UINT32_MAX, -1);
    if (unread >= 0) {
        snapshot->recv_queue_bytes = (uint32_t)unread;
        snapshot->send_queue_bytes = (uint32_t)value_number(object, "send_queue", UINT32_MAX, 0);
        snapshot->flags |= SNAPSHOT_HAS_QUEUES;
    }
}

static void read_fds(struct report *report, struct report_socket *socket, const json_t *list) {
    size_t count = json_array_size(list);
    if (count > FDS_MAX)
        count = FDS_MAX;
    int32_t *fds = arena_take(&report->arena, count, sizeof *fds);
    for (size_t i = 0; i < count; i++)
        fds[i] = (int32_t)json_integer_value(json_array_get(list, i));
    socket->fds = fds;
    socket->fd_count = (uint32_t)count;
    socket->record.first_fd = count ? fds[0] : -1;
    socket->record.fd_count = (uint16_t)(count < UINT16_MAX ? count : UINT16_MAX);
}

static void read_hints(struct report_socket *socket, const json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *hint = json_string_value(json_array_get(list, i));
        for (int bit = 0; hint && bit < HINT_COUNT; bit++)
            if (strcmp(hint, format_json_hint(bit)) == 0)
                socket->hints |= 1u << bit;
    }
}

static void read_holders(struct report *report, struct report_socket *socket, const json_t *list) {
    size_t count = json_array_size(list) < HOLDERS_MAX ? json_array_size(list) : HOLDERS_MAX;
    struct report_holder *holders = arena_take(&report->arena, count, sizeof *holders);
    for (size_t i = 0; i < count; i++) {
        const json_t *holder = json_array_get(list, i);
        const char *name = value_text(holder, "name");
        holders[i] = (struct report_holder){
            .pid = (uint32_t)value_number(holder, "pid", UINT32_MAX, 0),
            .fd = (int32_t)value_number(holder, "fd", INT32_MAX, -1),
            .name = arena_name(&report->arena, name ? name : ""),
        };
    }
    socket->holders = holders;
    socket->holder_count = (uint32_t)count;
}

static const struct report_stack *stack_of_step(const struct report_socket *socket,
                                                enum teardown_step step) {
    return step == TEARDOWN_EOF_READ     ? socket->end_of_stream
           : step == TEARDOWN_ERROR_READ ? socket->error
           : step == TEARDOWN_OUR_FIN    ? socket->shutdown
                                         : NULL;
}

// False for a step that is not known here.
static bool read_event(const struct report_socket *socket, struct report_event *event,
                       const json_t *object) {
    const char *what = value_text(object, "what"), *who = value_text(object, "who");
    const char *time = value_text(object, "time"), *error = value_text(object, "error");
    struct teardown_event *step = &event->event;
    int found = -1;
    for (int i = 0; what && i < TEARDOWN_STEPS; i++)
        if (strcmp(teardown_step_name((enum teardown_step)i), what) == 0)
            found = i;
    if (found < 0)
        return false;
    step->step = (enum teardown_step)found;
    step->side = !who || strcmp(who, "program") == 0 ? TEARDOWN_IN_PROGRAM
                 : strcmp(who, "us") == 0            ? TEARDOWN_FROM_US
                                                     : TEARDOWN_FROM_PEER;
    step->happened = json_is_true(json_object_get(object, "happened"));
    for (int i = TEARDOWN_TIME_UNKNOWN; time && i <= TEARDOWN_TIME_NOT_AFTER; i++)
        if (strcmp(teardown_time_name((enum teardown_time)i), time) == 0)
            step->time = (enum teardown_time)i;
    step->state = value_state(value_text(object, "state"));
    step->call = value_call(value_text(object, "call"));
    step->error = error ? value_error(error) : 0;
    step->thread = (uint32_t)value_number(object, "thread", UINT32_MAX, 0);
    event->ago_ms = value_number(object, "at_ms_ago", INT64_MAX, -1);
    event->epoch_ms = value_number(object, "at_epoch_ms", INT64_MAX, -1);
    event->stack = step->happened ? stack_of_step(socket, step->step) : NULL;
    return true;
}

static void read_teardown(struct report *report, struct report_socket *socket,
                          const json_t *object) {
    const json_t *list = json_object_get(object, "teardown");
    const char *first = value_text(object, "first_fin");
    if (!json_is_array(list))
        return;
    struct report_teardown *teardown = arena_take(&report->arena, 1, sizeof *teardown);
    for (int i = TEARDOWN_FIRST_UNKNOWN; first && i <= TEARDOWN_FIRST_NOBODY; i++)
        if (format_json_first_fin(i) && strcmp(format_json_first_fin(i), first) == 0)
            teardown->first = (enum teardown_first)i;
    for (size_t i = 0; i < json_array_size(list) && teardown->count < TEARDOWN_EVENTS_MAX; i++)
        teardown->count +=
            read_event(socket, &teardown->events[teardown->count], json_array_get(list, i));
    socket->teardown = teardown;
}

static uint8_t cause_named(const char *name) {
    for (uint8_t i = 0; name && i < CAUSE_COUNT; i++)
        if (strcmp(cause_name((enum ledger_cause)i), name) == 0)
            return i;
    return CAUSE_UNKNOWN;
}

// What all sockets of a finding share is in `socket` already.
static void read_socket(struct report *report, struct report_socket *socket, const json_t *object) {
    struct ledger_record *record = &socket->record;
    enum verdict verdict = (enum verdict)record->snapshot.verdict;
    record->inode = (uint64_t)value_number(object, "inode", INT64_MAX, 0);
    record->birth_tid = (uint32_t)value_number(object, "thread", UINT32_MAX, 0);
    record->eof_tid = (uint32_t)value_number(object, "end_of_stream_thread", UINT32_MAX, 0);
    record->local = value_address(value_text(object, "local"));
    record->peer = value_address(value_text(object, "peer"));
    read_kind(record, object);
    read_snapshot(&record->snapshot, object);
    record->snapshot.verdict = (uint8_t)verdict;
    int64_t open_ms = value_number(object, "open_ms", (int64_t)(now_ns / 1000000) - 1, -1);
    record->birth_ns = open_ms >= 0 ? now_ns - (uint64_t)open_ms * 1000000 : 0;
    int64_t fin_ms = value_number(object, "fin_age_ms", (int64_t)(now_ns / 1000000) - 1, -1);
    record->fin_ns = fin_ms >= 0 ? now_ns - (uint64_t)fin_ms * 1000000 : 0;
    if (json_is_true(json_object_get(object, "fin_age_is_bound")))
        record->flags |= RECORD_FIN_IS_BOUND;
    record->fds_closed = (uint32_t)value_number(object, "fds_closed", UINT32_MAX, 0);
    read_fds(report, socket, json_object_get(object, "fds"));
    read_hints(socket, json_object_get(object, "hints"));
    read_holders(report, socket, json_object_get(object, "also_open_in"));
    read_teardown(report, socket, object);
    record->snapshot.cause = cause_named(value_text(object, "cause"));
}

// --- findings -----------------------------------------------------------------------------------

static struct report_socket shared_of(struct report *report, const json_t *finding) {
    struct report_socket shared = {0};
    struct ledger_record *record = &shared.record;
    const json_t *birth = json_object_get(finding, "birth");
    const json_t *eof = json_object_get(finding, "end_of_stream");
    const json_t *error = json_object_get(finding, "error");
    record->birth_call = value_call(value_text(birth, "call"));
    record->provenance = value_provenance(value_text(birth, "provenance"));
    shared.birth = value_stack(report, birth);
    if (json_is_object(eof)) {
        record->eof_ns = now_ns;
        record->eof_call = value_call(value_text(eof, "call"));
        shared.end_of_stream = value_stack(report, eof);
    }
    if (json_is_object(error)) {
        record->error_ns = now_ns;
        record->error = value_error(value_text(error, "error"));
        record->error_call = value_call(value_text(error, "call"));
        shared.error = value_stack(report, error);
    }
    shared.shutdown = value_stack(report, json_object_get(finding, "shutdown"));
    shared.cause_text = arena_name(&report->arena, value_text(finding, "cause_text"));
    shared.suppressed_by = arena_name(&report->arena, value_text(finding, "suppressed_by"));
    return shared;
}

static void read_finding(struct report *report, struct report_process *process,
                         const json_t *finding) {
    const char *name = value_text(finding, "verdict");
    const json_t *list = json_object_get(finding, "sockets");
    enum verdict verdict = name ? verdict_named(name) : VERDICT_COUNT;
    if (verdict == VERDICT_COUNT || verdict_group(verdict) == GROUP_NONE) {
        report_process_note(report, process,
                            "the JSON is incomplete: a finding has a verdict that is not known "
                            "here");
        report->is_incomplete = true;
        return;
    }
    size_t count = json_array_size(list);
    if ((int64_t)count < value_number(finding, "count", INT64_MAX, 0)) {
        report_process_note(report, process,
                            "the JSON is incomplete: a finding has more sockets than it lists");
        report->is_incomplete = true;
    }
    struct report_socket shared = shared_of(report, finding);
    shared.process = process;
    shared.record.snapshot.verdict = (uint8_t)verdict;
    process->sockets =
        must_reallocate(process->sockets, process->socket_count + count, sizeof shared);
    for (size_t i = 0; i < count; i++) {
        struct report_socket *socket = &process->sockets[process->socket_count++];
        *socket = shared;
        read_socket(report, socket, json_array_get(list, i));
    }
}

// --- processes ----------------------------------------------------------------------------------

static void read_counters(struct ledger_counters *counters, const json_t *object) {
    for (const struct format_json_counter *c = format_json_counters; c->key; c++)
        *(uint64_t *)((char *)counters + c->offset) =
            (uint64_t)value_number(object, c->key, INT64_MAX, 0);
}

static enum report_ended ended_named(const char *name) {
    for (int i = 0; name && i < REPORT_ENDED_COUNT; i++)
        if (strcmp(report_ended_name((enum report_ended)i), name) == 0)
            return (enum report_ended)i;
    return REPORT_RUNNING;
}

static void read_cmdline(struct report *report, struct report_process *process,
                         const json_t *list) {
    process->cmdline_count = (uint32_t)json_array_size(list);
    process->cmdline = arena_take(&report->arena, process->cmdline_count, sizeof *process->cmdline);
    for (uint32_t i = 0; i < process->cmdline_count; i++) {
        const char *argument = json_string_value(json_array_get(list, i));
        process->cmdline[i] = arena_name(&report->arena, argument ? argument : "");
    }
}

// False where it is in the report already.
static bool read_process(struct report *report, const json_t *object) {
    const char *ledger = value_text(object, "ledger");
    if (ledger && gather_is_repeated(report, ledger))
        return false;
    struct report_process *process = gather_process(report);
    const char *exe = value_text(object, "exe");
    const json_t *findings = json_object_get(object, "findings");
    const json_t *notes = json_object_get(object, "notes");
    const json_t *status = json_object_get(object, "end_status");
    process->is_judged = true;
    process->created_ns = report->process_count; // in the document's order
    process->pid = (uint32_t)value_number(object, "pid", UINT32_MAX, 0);
    process->parent_pid = (uint32_t)value_number(object, "ppid", UINT32_MAX, 0);
    process->ledger = ledger ? arena_name(&report->arena, ledger) : NULL;
    process->exe = exe ? arena_name(&report->arena, exe) : "";
    process->now_ns = now_ns;
    process->ended = ended_named(value_text(object, "ended"));
    process->has_end_status = json_is_integer(status);
    process->end_status = (int32_t)json_integer_value(status);
    process->unwatched = arena_name(&report->arena, value_text(object, "unwatched"));
    process->is_observed = process->unwatched && value_text(object, "ended");
    read_cmdline(report, process, json_object_get(object, "cmdline"));
    read_counters(&process->counters, json_object_get(object, "counters"));
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (json_string_value(json_array_get(notes, i)))
            report_process_note(report, process, json_string_value(json_array_get(notes, i)));
    for (size_t i = 0; i < json_array_size(findings); i++)
        read_finding(report, process, json_array_get(findings, i));
    process->unlisted_open = (uint64_t)value_number(object, "open", INT64_MAX, 0);
    process->unlisted_inherited = (uint64_t)value_number(object, "inherited", INT64_MAX, 0);
    for (uint32_t i = 0; i < process->socket_count; i++) { // those that it does list
        const struct report_socket *socket = &process->sockets[i];
        uint64_t *unlisted = socket->hints & HINT_HELD_BY_PARENT ? &process->unlisted_inherited
                                                                 : &process->unlisted_open;
        if (!verdict_is_leak((enum verdict)socket->record.snapshot.verdict) && *unlisted)
            --*unlisted;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------

struct input {
    int fd;
    uint64_t offset, end; // no further, however much it grows meanwhile
};

// json_loadfd() would read byte by byte.
static size_t read_some(void *buffer, size_t room, void *context) {
    struct input *input = context;
    if (room > input->end - input->offset)
        room = (size_t)(input->end - input->offset);
    ssize_t got;
    do
        got = pread(input->fd, buffer, room, (off_t)input->offset);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return (size_t)-1;
    input->offset += (uint64_t)got;
    return (size_t)got;
}

static json_t *load(int fd, uint64_t bytes, const char *path) {
    struct input input = {.fd = fd, .end = bytes};
    json_error_t problem;
    if (bytes > DOCUMENT_MAX_BYTES) {
        error_say("%s: larger than a report of sockleak gets (%d MB)", path,
                  DOCUMENT_MAX_BYTES >> 20);
        return NULL;
    }
    json_t *document = json_load_callback(read_some, &input, 0, &problem);
    if (!document)
        error_say("%s:%d: not JSON: %s", path, problem.line, problem.text);
    return document;
}

// Without these a leak would be passed over in silence. NULL where all are there.
static const char *missing_of_finding(const json_t *finding) {
    return !value_text(finding, "verdict")                       ? "verdict"
           : !json_is_array(json_object_get(finding, "sockets")) ? "sockets"
                                                                 : NULL;
}

static const char *missing_of_process(const json_t *process) {
    const json_t *findings = json_object_get(process, "findings");
    if (!json_is_integer(json_object_get(process, "pid")))
        return "pid";
    if (!json_is_array(findings))
        return "findings";
    for (size_t i = 0; i < json_array_size(findings); i++) {
        const char *missing = missing_of_finding(json_array_get(findings, i));
        if (missing)
            return missing;
    }
    return NULL;
}

static bool is_report(const json_t *document, const char *path) {
    const char *schema = value_text(document, "schema");
    const json_t *processes = json_object_get(document, "processes");
    if (!schema) {
        error_say("%s: not a report of sockleak: it has no schema", path);
        return false;
    }
    if (strcmp(schema, FORMAT_JSON_SCHEMA) != 0) {
        error_say("%s: not a report of sockleak: its schema is '%s', and '%s' is read", path,
                  schema, FORMAT_JSON_SCHEMA);
        return false;
    }
    if (!json_is_array(processes)) {
        error_say("%s: not a report of sockleak: it has no list of processes", path);
        return false;
    }
    for (size_t i = 0; i < json_array_size(processes); i++) {
        const char *missing = missing_of_process(json_array_get(processes, i));
        if (!missing)
            continue;
        error_say("%s: damaged report: process %zu of %zu has no '%s', or a wrong one", path, i + 1,
                  json_array_size(processes), missing);
        return false;
    }
    return true;
}

int json_reader_add(struct report *report, int fd, uint64_t bytes, const char *path) {
    json_t *document = load(fd, bytes, path);
    if (!document)
        return -EBADMSG;
    const json_t *processes = json_object_get(document, "processes");
    const json_t *notes = json_object_get(document, "notes");
    if (!is_report(document, path)) {
        json_decref(document);
        return -EBADMSG;
    }
    bool is_new = json_array_size(processes) == 0;
    for (size_t i = 0; i < json_array_size(processes); i++)
        is_new |= read_process(report, json_array_get(processes, i));
    if (is_new) // they are those of all its processes
        json_sites_read(report, document);
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (json_string_value(json_array_get(notes, i)))
            report_note_text(report, json_string_value(json_array_get(notes, i)));
    json_decref(document);
    return 0;
}
