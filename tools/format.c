#include "format.h"
#include "base_name.h"
#include "errors.h"
#include "format_options.h"
#include "report/names.h"
#include "utf8.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void format_function(const struct report *report, FILE *out,
                             const struct render_options *options);

static const struct {
    const char *name;
    format_function *write;
} formats[FORMAT_COUNT] = {
    [FORMAT_TEXT] = {"text", format_text},       [FORMAT_JSON] = {"json", format_json},
    [FORMAT_JUNIT] = {"junit", format_junit},    [FORMAT_SARIF] = {"sarif", format_sarif},
    [FORMAT_GITHUB] = {"github", format_github}, [FORMAT_FOLDED] = {"folded", format_folded},
    [FORMAT_PPROF] = {"pprof", format_pprof},
};

int format_named(const char *name, enum format *out) {
    for (int i = 0; i < FORMAT_COUNT; i++)
        if (strcmp(formats[i].name, name) == 0) {
            *out = (enum format)i;
            return 0;
        }
    return -EINVAL;
}

int report_write(const struct report *report, enum format format, FILE *out,
                 const struct render_options *options) {
    formats[format].write(report, out, options);
    if (fflush(out) == 0 && !ferror(out))
        return 0;
    error_say("the report could not be written: %s", strerror(errno));
    return -EIO;
}

// --- shared by formats --------------------------------------------------------------------------

bool format_is_shown(const struct report_finding *finding, const struct render_options *options) {
    return finding->is_leak ? !finding->suppressed_by : options->show_all;
}

const char *format_path(const char *file) {
    static char here[4096];
    if (!here[0] && !getcwd(here, sizeof here))
        strcpy(here, "?");
    size_t len = strlen(here);
    bool is_below = len > 1 && strncmp(file, here, len) == 0 && file[len] == '/' && file[len + 1];
    return is_below ? file + len + 1 : file;
}

void format_title(const struct report_class *merged, char *out, size_t out_bytes) {
    const struct report_finding *sample = merged->findings[0];
    enum verdict verdict = sample->verdict;
    // Whether end of stream was read the kernel tells of a live process.
    bool is_told = verdict == VERDICT_FIN_UNREAD && sample->process->is_observed;
    snprintf(out, out_bytes, "%llu socket%s, %s: %s", (unsigned long long)merged->socket_count,
             merged->socket_count == 1 ? "" : "s", verdict_name(verdict),
             is_told ? verdict_explanation(verdict)
                     : verdict_explanation_of(verdict, &sample->sockets[0]->record));
}

void format_stack_lines(const struct report_stack *stack,
                        void (*line)(void *context, const char *text), void *context) {
    unsigned shown = 0;
    for (uint32_t i = 0; stack && i < stack->frame_count; i++) {
        const struct report_frame *frame = &stack->frames[i];
        char *text = NULL, *place = NULL;
        int made;
        if (frame->hidden)
            continue;
        if (frame->file && frame->line)
            made = asprintf(&place, "%s:%u", format_path(frame->file), frame->line);
        else
            made = asprintf(&place, "%s+0x%llx", frame->module ? base_name(frame->module) : "",
                            (unsigned long long)frame->module_offset);
        if (made >= 0)
            made = asprintf(&text, "  #%u %s at %s", shown++,
                            frame->function ? frame->function : "??", place);
        line(context, made >= 0 ? text : "  (out of memory)");
        free(text);
        free(place);
    }
}

bool format_stack_at(const struct report_finding *finding, int index, char *heading,
                     size_t heading_bytes, const struct report_stack **stack) {
    const struct report_socket *sample = finding->sockets[0];
    const struct ledger_record *record = &sample->record;
    // Those that are not there do not count.
    if (index == 0) {
        *stack = sample->birth;
        if (record->birth_call == CALL_UNKNOWN)
            snprintf(heading, heading_bytes, "origin unknown");
        else
            snprintf(heading, heading_bytes, "%s %s",
                     record->provenance == PROVENANCE_RECEIVED ? "received by" : "opened by",
                     report_birth_call(sample));
        return true;
    }
    if (record->eof_ns && --index == 0) {
        *stack = sample->end_of_stream;
        snprintf(heading, heading_bytes, "end of stream read by %s",
                 name_of_call(record->eof_call));
        return true;
    }
    if (record->error && --index == 0) {
        *stack = sample->error;
        snprintf(heading, heading_bytes, "%s returned by %s", name_of_error(record->error),
                 name_of_call(record->error_call));
        return true;
    }
    if (sample->shutdown && finding->verdict == VERDICT_SHUTDOWN_UNCLOSED && --index == 0) {
        *stack = sample->shutdown;
        snprintf(heading, heading_bytes, "shut down by shutdown");
        return true;
    }
    return false;
}

// --- JSON ---------------------------------------------------------------------------------------

static json_t *or_exit(json_t *value) {
    if (value)
        return value;
    error_say("out of memory");
    exit(STATUS_FAILED);
}

json_t *format_json_text(const char *text) {
    if (!text)
        return or_exit(json_null());
    json_t *value = json_string(text);
    if (value)
        return value;
    char *valid = utf8_copy(text);
    value = or_exit(json_string(valid));
    free(valid);
    return value;
}

json_t *format_json_number(int64_t number) {
    return or_exit(json_integer(number));
}

void format_json_set(json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, or_exit(value)) < 0)
        or_exit(NULL);
}

void format_json_append(json_t *array, json_t *value) {
    if (json_array_append_new(array, or_exit(value)) < 0)
        or_exit(NULL);
}
