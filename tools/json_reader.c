#include "json_reader.h"
#include "errors.h"
#include "format_json.h"
#include "json_sites_reader.h"
#include "report/names.h"
#include "symbolize.h"
#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    DOCUMENT_MAX_BYTES = 256 << 20,
    FRAMES_MAX = 4096,
    FDS_MAX = 1 << 20,
    HOLDERS_MAX = 64 // of one socket
};

// Times of a document are ages. They are counted back from here, so that they fit the ledger's.
static const uint64_t now_ns = UINT64_MAX / 4;

// --- small values -------------------------------------------------------------------------------

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key)); // NULL for all but text
}

// A number from 0 to max; `fallback` for anything else.
static int64_t number_of(const json_t *object, const char *key, int64_t max, int64_t fallback) {
    const json_t *value = json_object_get(object, key);
    int64_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    return number >= 0 && number <= max ? number : fallback;
}

static uint64_t hex_of(const json_t *object, const char *key) {
    const char *text = text_of(object, key);
    return text && strncmp(text, "0x", 2) == 0 ? strtoull(text + 2, NULL, 16) : 0;
}

static uint8_t call_named(const char *name) {
    for (uint8_t call = 0; name && call < CALL_COUNT; call++)
        if (strcmp(name_of_call(call), name) == 0)
            return call;
    return CALL_UNKNOWN;
}

static uint8_t state_named(const char *name) {
    for (uint8_t state = STATE_ESTABLISHED; name && state <= STATE_CLOSING; state++)
        if (strcmp(name_of_state(state), name) == 0)
            return state;
    return STATE_UNKNOWN;
}

static uint8_t provenance_named(const char *name) {
    for (uint8_t i = 0; name && i <= PROVENANCE_FOUND; i++)
        if (strcmp(name_of_provenance(i), name) == 0)
            return i;
    return PROVENANCE_FOUND;
}

static uint16_t error_named(const char *name) {
    static const uint16_t errors[] = {ECONNRESET,   EPIPE,       ETIMEDOUT,
                                      EHOSTUNREACH, ENETUNREACH, ECONNABORTED};
    for (size_t i = 0; name && i < sizeof errors / sizeof *errors; i++)
        if (strcmp(name_of_error(errors[i]), name) == 0)
            return errors[i];
    return EIO; // any that has no name here
}

// "127.0.0.1:80", "[::1%2]:80"
static struct ledger_address address_of(const char *text) {
    struct ledger_address address = {0};
    char host[INET6_ADDRSTRLEN + 16];
    const char *colon = text ? strrchr(text, ':') : NULL;
    if (!colon || (size_t)(colon - text) >= sizeof host)
        return address;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    address.port = (uint16_t)strtoul(colon + 1, NULL, 10);
    if (host[0] != '[') {
        address.family = inet_pton(AF_INET, host, address.ip) == 1 ? ADDRESS_INET : ADDRESS_NONE;
        return address;
    }
    host[strcspn(host, "]")] = '\0';
    char *scope = strchr(host, '%');
    if (scope) {
        *scope = '\0';
        address.scope_id = (uint32_t)strtoul(scope + 1, NULL, 10);
    }
    address.family = inet_pton(AF_INET6, host + 1, address.ip) == 1 ? ADDRESS_INET6 : ADDRESS_NONE;
    return address;
}

// --- stacks -------------------------------------------------------------------------------------

static struct report_frame frame_of(struct report *report, const json_t *object) {
    struct arena *arena = &report->arena;
    return (struct report_frame){
        .function = arena_name(arena, text_of(object, "function")),
        .module = arena_name(arena, text_of(object, "module")),
        .build_id = arena_name(arena, text_of(object, "build_id")),
        .file = arena_name(arena, text_of(object, "file")),
        .function_offset = hex_of(object, "offset"),
        .module_offset = hex_of(object, "module_offset"),
        .line = (uint32_t)number_of(object, "line", UINT32_MAX, 0),
        .inlined = json_is_true(json_object_get(object, "inlined")),
    };
}

// The stack of {"call": ..., "stack": [...]}; NULL where it has no frames.
static struct report_stack *stack_of(struct report *report, const json_t *call) {
    const json_t *list = json_object_get(call, "stack");
    size_t count = json_array_size(list);
    if (count == 0)
        return NULL;
    if (count > FRAMES_MAX)
        count = FRAMES_MAX;
    struct report_frame *frames = must_allocate(count, sizeof *frames);
    for (size_t i = 0; i < count; i++)
        frames[i] = frame_of(report, json_array_get(list, i));
    struct report_stack *stack = gather_shown_stack(
        report, frames, (uint32_t)count, json_is_true(json_object_get(call, "truncated")));
    symbolize_hide_start_up(stack);
    free(frames);
    return stack;
}

// --- sockets ------------------------------------------------------------------------------------

static void read_kind(struct ledger_record *record, const json_t *object) {
    static const uint16_t families[] = {AF_INET, AF_INET6, AF_UNIX};
    const char *family = text_of(object, "family"), *protocol = text_of(object, "protocol");
    for (size_t i = 0; family && i < sizeof families / sizeof *families; i++)
        if (strcmp(format_json_family(families[i]), family) == 0)
            record->family = families[i];
    record->type = SOCK_STREAM;
    record->protocol = protocol && strcmp(protocol, "mptcp") == 0 ? IPPROTO_MPTCP : 0;
}

static void read_snapshot(struct ledger_snapshot *snapshot, const json_t *object) {
    snapshot->state = state_named(text_of(object, "state"));
    if (snapshot->state == STATE_UNKNOWN)
        return;
    snapshot->flags = SNAPSHOT_TAKEN;
    snapshot->taken_ns = now_ns;
    int64_t age_ms = number_of(object, "state_age_ms", UINT32_MAX, -1);
    if (age_ms < 0)
        age_ms = number_of(object, "fin_age_ms", UINT32_MAX, -1);
    if (age_ms >= 0) {
        snapshot->state_age_ms = (uint32_t)age_ms;
        snapshot->flags |= SNAPSHOT_HAS_TCP_INFO;
    }
    if (json_is_true(json_object_get(object, "state_age_is_bound")))
        snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
    int64_t unread = number_of(object, "recv_queue", UINT32_MAX, -1);
    if (unread >= 0) {
        snapshot->recv_queue_bytes = (uint32_t)unread;
        snapshot->send_queue_bytes = (uint32_t)number_of(object, "send_queue", UINT32_MAX, 0);
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
        const char *name = text_of(holder, "name");
        holders[i] = (struct report_holder){
            .pid = (uint32_t)number_of(holder, "pid", UINT32_MAX, 0),
            .fd = (int32_t)number_of(holder, "fd", INT32_MAX, -1),
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
    const char *what = text_of(object, "what"), *who = text_of(object, "who");
    const char *time = text_of(object, "time"), *error = text_of(object, "error");
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
    step->state = state_named(text_of(object, "state"));
    step->call = call_named(text_of(object, "call"));
    step->error = error ? error_named(error) : 0;
    step->thread = (uint32_t)number_of(object, "thread", UINT32_MAX, 0);
    event->ago_ms = number_of(object, "at_ms_ago", INT64_MAX, -1);
    event->epoch_ms = number_of(object, "at_epoch_ms", INT64_MAX, -1);
    event->stack = step->happened ? stack_of_step(socket, step->step) : NULL;
    return true;
}

static void read_teardown(struct report *report, struct report_socket *socket,
                          const json_t *object) {
    const json_t *list = json_object_get(object, "teardown");
    const char *first = text_of(object, "first_fin");
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
    record->inode = (uint64_t)number_of(object, "inode", INT64_MAX, 0);
    record->birth_tid = (uint32_t)number_of(object, "thread", UINT32_MAX, 0);
    record->eof_tid = (uint32_t)number_of(object, "end_of_stream_thread", UINT32_MAX, 0);
    record->local = address_of(text_of(object, "local"));
    record->peer = address_of(text_of(object, "peer"));
    read_kind(record, object);
    read_snapshot(&record->snapshot, object);
    record->snapshot.verdict = (uint8_t)verdict;
    int64_t open_ms = number_of(object, "open_ms", (int64_t)(now_ns / 1000000) - 1, -1);
    record->birth_ns = open_ms >= 0 ? now_ns - (uint64_t)open_ms * 1000000 : 0;
    read_fds(report, socket, json_object_get(object, "fds"));
    read_hints(socket, json_object_get(object, "hints"));
    read_holders(report, socket, json_object_get(object, "also_open_in"));
    read_teardown(report, socket, object);
    record->snapshot.cause = cause_named(text_of(object, "cause"));
}

// --- findings -----------------------------------------------------------------------------------

static struct report_socket shared_of(struct report *report, const json_t *finding) {
    struct report_socket shared = {0};
    struct ledger_record *record = &shared.record;
    const json_t *birth = json_object_get(finding, "birth");
    const json_t *eof = json_object_get(finding, "end_of_stream");
    const json_t *error = json_object_get(finding, "error");
    record->birth_call = call_named(text_of(birth, "call"));
    record->provenance = provenance_named(text_of(birth, "provenance"));
    shared.birth = stack_of(report, birth);
    if (json_is_object(eof)) {
        record->eof_ns = now_ns;
        record->eof_call = call_named(text_of(eof, "call"));
        shared.end_of_stream = stack_of(report, eof);
    }
    if (json_is_object(error)) {
        record->error = error_named(text_of(error, "error"));
        record->error_call = call_named(text_of(error, "call"));
        shared.error = stack_of(report, error);
    }
    shared.shutdown = stack_of(report, json_object_get(finding, "shutdown"));
    shared.cause_text = arena_name(&report->arena, text_of(finding, "cause_text"));
    shared.suppressed_by = arena_name(&report->arena, text_of(finding, "suppressed_by"));
    return shared;
}

static void read_finding(struct report *report, struct report_process *process,
                         const json_t *finding) {
    const char *name = text_of(finding, "verdict");
    const json_t *list = json_object_get(finding, "sockets");
    enum verdict verdict = name ? verdict_named(name) : VERDICT_COUNT;
    if (verdict == VERDICT_COUNT || verdict_group(verdict) == GROUP_NONE) {
        report_process_note(report, process,
                            "the JSON is incomplete: a finding has a verdict that is not known "
                            "here");
        return;
    }
    size_t count = json_array_size(list);
    if ((int64_t)count < number_of(finding, "count", INT64_MAX, 0))
        report_process_note(report, process,
                            "the JSON is incomplete: a finding has more sockets than it lists");
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
            (uint64_t)number_of(object, c->key, INT64_MAX, 0);
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

static void read_process(struct report *report, const json_t *object) {
    struct report_process *process = gather_process(report);
    const char *exe = text_of(object, "exe");
    const json_t *findings = json_object_get(object, "findings");
    const json_t *notes = json_object_get(object, "notes");
    const json_t *status = json_object_get(object, "end_status");
    process->is_judged = true;
    process->created_ns = report->process_count; // in the document's order
    process->pid = (uint32_t)number_of(object, "pid", UINT32_MAX, 0);
    process->parent_pid = (uint32_t)number_of(object, "ppid", UINT32_MAX, 0);
    process->exe = exe ? arena_name(&report->arena, exe) : "";
    process->now_ns = now_ns;
    process->ended = ended_named(text_of(object, "ended"));
    process->has_end_status = json_is_integer(status);
    process->end_status = (int32_t)json_integer_value(status);
    process->unwatched = arena_name(&report->arena, text_of(object, "unwatched"));
    process->is_observed = process->unwatched && text_of(object, "ended");
    read_cmdline(report, process, json_object_get(object, "cmdline"));
    read_counters(&process->counters, json_object_get(object, "counters"));
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (json_string_value(json_array_get(notes, i)))
            report_process_note(report, process, json_string_value(json_array_get(notes, i)));
    for (size_t i = 0; i < json_array_size(findings); i++)
        read_finding(report, process, json_array_get(findings, i));
    process->unlisted_open = (uint64_t)number_of(object, "open", INT64_MAX, 0);
    process->unlisted_inherited = (uint64_t)number_of(object, "inherited", INT64_MAX, 0);
    for (uint32_t i = 0; i < process->socket_count; i++) { // those that it does list
        const struct report_socket *socket = &process->sockets[i];
        uint64_t *unlisted = socket->hints & HINT_HELD_BY_PARENT ? &process->unlisted_inherited
                                                                 : &process->unlisted_open;
        if (!verdict_is_leak((enum verdict)socket->record.snapshot.verdict) && *unlisted)
            --*unlisted;
    }
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

int json_reader_add(struct report *report, int fd, uint64_t bytes, const char *path) {
    json_t *document = load(fd, bytes, path);
    if (!document)
        return -EBADMSG;
    const char *schema = text_of(document, "schema");
    const json_t *processes = json_object_get(document, "processes");
    const json_t *notes = json_object_get(document, "notes");
    if (!schema || strcmp(schema, FORMAT_JSON_SCHEMA) != 0 || !json_is_array(processes)) {
        error_say("%s: not a report of sockleak: its schema is '%s', and '%s' is read", path,
                  schema ? schema : "", FORMAT_JSON_SCHEMA);
        json_decref(document);
        return -EBADMSG;
    }
    for (size_t i = 0; i < json_array_size(processes); i++)
        read_process(report, json_array_get(processes, i));
    json_sites_read(report, document, &(struct json_sites_tools){stack_of, address_of, call_named});
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (json_string_value(json_array_get(notes, i)))
            report_note_text(report, json_string_value(json_array_get(notes, i)));
    json_decref(document);
    return 0;
}
