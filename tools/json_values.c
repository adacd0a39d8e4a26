#include "json_values.h"
#include "errors.h"
#include "gather.h"
#include "report/names.h"
#include "symbolize.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    FRAMES_MAX = 4096
};

const char *value_text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key)); // NULL for all but text
}

int64_t value_number(const json_t *object, const char *key, int64_t max, int64_t fallback) {
    const json_t *value = json_object_get(object, key);
    int64_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    return number >= 0 && number <= max ? number : fallback;
}

uint64_t value_hex(const json_t *object, const char *key) {
    const char *text = value_text(object, key);
    return text && strncmp(text, "0x", 2) == 0 ? strtoull(text + 2, NULL, 16) : 0;
}

uint8_t value_call(const char *name) {
    for (uint8_t call = 0; name && call < CALL_COUNT; call++)
        if (strcmp(name_of_call(call), name) == 0)
            return call;
    return CALL_UNKNOWN;
}

uint8_t value_state(const char *name) {
    for (uint8_t state = STATE_ESTABLISHED; name && state <= STATE_CLOSING; state++)
        if (strcmp(name_of_state(state), name) == 0)
            return state;
    return STATE_UNKNOWN;
}

uint8_t value_provenance(const char *name) {
    for (uint8_t i = 0; name && i <= PROVENANCE_FOUND; i++)
        if (strcmp(name_of_provenance(i), name) == 0)
            return i;
    return PROVENANCE_FOUND;
}

uint16_t value_error(const char *name) {
    static const uint16_t errors[] = {ECONNRESET,   EPIPE,       ETIMEDOUT,
                                      EHOSTUNREACH, ENETUNREACH, ECONNABORTED};
    for (size_t i = 0; name && i < sizeof errors / sizeof *errors; i++)
        if (strcmp(name_of_error(errors[i]), name) == 0)
            return errors[i];
    return EIO; // any that has no name here
}

struct ledger_address value_address(const char *text) {
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
        .function = arena_name(arena, value_text(object, "function")),
        .module = arena_name(arena, value_text(object, "module")),
        .build_id = arena_name(arena, value_text(object, "build_id")),
        .file = arena_name(arena, value_text(object, "file")),
        .function_offset = value_hex(object, "offset"),
        .module_offset = value_hex(object, "module_offset"),
        .line = (uint32_t)value_number(object, "line", UINT32_MAX, 0),
        .inlined = json_is_true(json_object_get(object, "inlined")),
    };
}

struct report_stack *value_stack(struct report *report, const json_t *call) {
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
    symbolize_hide_frames(stack);
    free(frames);
    return stack;
}
