// SARIF 2.1.0 (OASIS), as GitHub code scanning and IDEs read it: a rule for each verdict, a result
// for each finding.
#include "format.h"
#include "report/names.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(object, key, value) format_json_set(object, key, format_json_text(value))
#define NUMBER(object, key, value)                                                                 \
    format_json_set(object, key, format_json_number((int64_t)(value)))

static json_t *message_of(const char *text) {
    json_t *message = json_object();
    TEXT(message, "text", text);
    return message;
}

// --- rules --------------------------------------------------------------------------------------

static const char *help_of(enum verdict verdict) {
    switch (verdict_group(verdict)) {
    case GROUP_CLOSE_WAIT:
        return "The peer has closed. The kernel keeps the socket in CLOSE_WAIT until this program "
               "closes it. Close the descriptor where end of stream is read, and on every way out "
               "of the function.";
    case GROUP_DEAD:
        return "The connection is over and the descriptor is still open. Close it after an error "
               "of read or write, and after shutdown.";
    case GROUP_OPEN:
    case GROUP_NONE:
        break;
    }
    return "The socket is open. This is no leak by itself.";
}

static json_t *rules(void) {
    json_t *array = json_array();
    for (int i = VERDICT_EOF_IGNORED; i < VERDICT_COUNT; i++) {
        enum verdict verdict = (enum verdict)i;
        json_t *rule = json_object(), *level = json_object();
        TEXT(rule, "id", verdict_name(verdict));
        format_json_set(rule, "shortDescription", message_of(verdict_explanation(verdict)));
        format_json_set(rule, "help", message_of(help_of(verdict)));
        TEXT(level, "level", verdict_is_leak(verdict) ? "error" : "note");
        format_json_set(rule, "defaultConfiguration", level);
        format_json_append(array, rule);
    }
    return array;
}

// --- places -------------------------------------------------------------------------------------

// A path as a URI reference (RFC 3986): relative to the checkout where it lies in the current
// directory.
static json_t *artifact_of(const char *file) {
    const char *path = format_path(file);
    json_t *artifact = json_object();
    char *uri = malloc(3 * strlen(path) + sizeof "file://"), *to = uri;
    if (uri && path[0] == '/')
        to = stpcpy(to, "file://");
    for (const unsigned char *c = (const unsigned char *)path; uri && *c; c++)
        if (isalnum(*c) || strchr("/-._~+@", *c))
            *to++ = (char)*c;
        else
            to += sprintf(to, "%%%02X", *c);
    if (uri)
        *to = '\0';
    TEXT(artifact, "uri", uri ? uri : "unknown");
    if (path[0] != '/')
        TEXT(artifact, "uriBaseId", "SRCROOT");
    free(uri);
    return artifact;
}

static json_t *location_of(const struct report_frame *frame) {
    json_t *location = json_object();
    if (frame->file) {
        json_t *physical = json_object();
        format_json_set(physical, "artifactLocation", artifact_of(frame->file));
        if (frame->line) {
            json_t *region = json_object();
            NUMBER(region, "startLine", frame->line);
            format_json_set(physical, "region", region);
        }
        format_json_set(location, "physicalLocation", physical);
    }
    json_t *logical = json_object(), *list = json_array();
    TEXT(logical, "fullyQualifiedName", frame->function ? frame->function : "??");
    TEXT(logical, "kind", "function");
    format_json_append(list, logical);
    format_json_set(location, "logicalLocations", list);
    return location;
}

static json_t *stack_of(const char *heading, const struct report_stack *stack) {
    json_t *object = json_object(), *frames = json_array();
    for (uint32_t i = 0; stack && i < stack->frame_count; i++) {
        if (stack->frames[i].hidden)
            continue;
        json_t *frame = json_object();
        format_json_set(frame, "location", location_of(&stack->frames[i]));
        if (stack->frames[i].module)
            TEXT(frame, "module", stack->frames[i].module);
        format_json_append(frames, frame);
    }
    format_json_set(object, "message", message_of(heading));
    format_json_set(object, "frames", frames);
    return object;
}

// --- code flows ---------------------------------------------------------------------------------
// What happened to the sample socket, in the order of time: each call from the outermost frame in.
// A thread has a flow of its own (SARIF 3.36 to 3.38).

static json_t *step_of(const struct report_frame *frame, uint32_t level, const char *message,
                       int *order) {
    json_t *step = json_object(), *location = location_of(frame);
    if (message)
        format_json_set(location, "message", message_of(message));
    format_json_set(step, "location", location);
    if (frame->module)
        TEXT(step, "module", frame->module);
    NUMBER(step, "nestingLevel", level);
    NUMBER(step, "executionOrder", (*order)++);
    TEXT(step, "importance", message ? "essential" : "unimportant");
    return step;
}

static void add_steps(json_t *steps, const char *heading, const struct report_stack *stack,
                      int *order) {
    uint32_t level = 0, innermost = stack->frame_count;
    for (uint32_t i = stack->frame_count; i-- > 0;)
        innermost = stack->frames[i].hidden ? innermost : i;
    for (uint32_t i = stack->frame_count; i-- > 0;)
        if (!stack->frames[i].hidden)
            format_json_append(
                steps, step_of(&stack->frames[i], level++, i == innermost ? heading : NULL, order));
}

// Of the thread that a stack is of, where it is known to be another than that of the birth.
static uint32_t thread_of(const struct report_socket *sample, const struct report_stack *stack) {
    const struct ledger_record *record = &sample->record;
    return stack == sample->end_of_stream && record->eof_tid ? record->eof_tid : record->birth_tid;
}

static json_t *flow_of(const struct report_finding *finding) {
    const struct report_stack *stack;
    json_t *flow = json_object(), *threads = json_array(), *steps = NULL;
    uint32_t before = 0;
    int order = 1;
    char heading[256];
    for (int i = 0; format_stack_at(finding, i, heading, sizeof heading, &stack); i++) {
        if (!stack || stack->frame_count == 0)
            continue;
        uint32_t thread = thread_of(finding->sockets[0], stack);
        if (!steps || thread != before) {
            json_t *object = json_object();
            steps = json_array();
            format_json_set(object, "locations", steps);
            format_json_append(threads, object);
        }
        before = thread;
        add_steps(steps, heading, stack, &order);
    }
    format_json_set(flow, "threadFlows", threads);
    if (steps)
        return flow;
    json_decref(flow); // nothing is known of it: no flow may be empty
    return NULL;
}

// --- results ------------------------------------------------------------------------------------

static void set_suppression(json_t *result, const struct report_finding *sample) {
    json_t *list = json_array();
    if (sample->suppressed_by) {
        json_t *suppression = json_object();
        TEXT(suppression, "kind", "external");
        TEXT(suppression, "justification", sample->suppressed_by);
        format_json_append(list, suppression);
    }
    format_json_set(result, "suppressions", list);
}

static json_t *result_of(const struct report *report, const struct report_class *merged) {
    const struct report_finding *sample = merged->findings[0];
    const struct report_frame *frame = report_finding_frame(sample);
    const struct report_stack *stack;
    json_t *result = json_object(), *locations = json_array(), *stacks = json_array();
    json_t *prints = json_object();
    char text[256];
    TEXT(result, "ruleId", verdict_name(sample->verdict));
    NUMBER(result, "ruleIndex", sample->verdict - VERDICT_EOF_IGNORED);
    TEXT(result, "level", sample->is_leak ? "error" : "note");
    format_title(merged, text, sizeof text);
    format_json_set(result, "message", message_of(text));
    if (frame)
        format_json_append(locations, location_of(frame));
    format_json_set(result, "locations", locations);
    for (int i = 0; format_stack_at(sample, i, text, sizeof text, &stack); i++)
        if (stack)
            format_json_append(stacks, stack_of(text, stack));
    format_json_set(result, "stacks", stacks);
    json_t *flow = flow_of(sample), *flows = json_array();
    if (flow)
        format_json_append(flows, flow);
    format_json_set(result, "codeFlows", flows);
    NUMBER(result, "occurrenceCount", merged->socket_count);
    TEXT(prints, "sockleak/v1", sample->fingerprint);
    format_json_set(result, "partialFingerprints", prints);
    set_suppression(result, sample);
    if (report->has_baseline)
        TEXT(result, "baselineState", sample->is_known ? "unchanged" : "new");
    return result;
}

// 3.58: a notification is about the tool's work, not about what it found.
static void add_limit(void *notifications, const char *text) {
    json_t *notification = json_object();
    TEXT(notification, "level", "warning");
    format_json_set(notification, "message", message_of(text));
    format_json_append(notifications, notification);
}

static json_t *invocations_of(const struct report *report) {
    json_t *invocations = json_array(), *invocation = json_object(), *notifications = json_array();
    format_json_set(invocation, "executionSuccessful", json_true());
    format_each_limit(report, add_limit, notifications);
    format_json_set(invocation, "toolExecutionNotifications", notifications);
    format_json_append(invocations, invocation);
    return invocations;
}

void format_sarif(const struct report *report, FILE *out, const struct render_options *options) {
    json_t *document = json_object(), *runs = json_array(), *run = json_object();
    json_t *tool = json_object(), *driver = json_object(), *results = json_array();
    TEXT(document, "$schema", "https://json.schemastore.org/sarif-2.1.0.json");
    TEXT(document, "version", "2.1.0");
    TEXT(driver, "name", "sockleak");
    TEXT(driver, "version", SOCKLEAK_VERSION);
    format_json_set(driver, "rules", rules());
    format_json_set(tool, "driver", driver);
    format_json_set(run, "tool", tool);
    format_json_set(run, "invocations", invocations_of(report));
    for (uint32_t i = 0; i < report->class_count; i++) {
        const struct report_finding *sample = report->classes[i].findings[0];
        if (sample->is_leak || options->show_all)
            format_json_append(results, result_of(report, &report->classes[i]));
    }
    format_json_set(run, "results", results);
    TEXT(run, "columnKind", "unicodeCodePoints");
    format_json_append(runs, run);
    format_json_set(document, "runs", runs);
    json_dumpf(document, out, FORMAT_JSON_ASCII | JSON_INDENT(2));
    fputc('\n', out);
    json_decref(document);
}
