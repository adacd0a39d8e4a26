// Our own JSON, as somebody else may have changed it.
//
// Bytes that are changed at random are mostly no JSON any more, which is soon known. So the mutator
// also changes documents: a value becomes another of any kind, goes, or comes twice.
#include "fuzz.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct report *report = report_new();
    struct report_options options = fuzz_report_options();
    if (report_add_path(report, fuzz_file(data, size)) == 0) {
        fuzz_claim(report_finish(report, &options) == 0, "what was read can be finished");
        fuzz_write(report, data, size);
    }
    report_free(report);
    return 0;
}

// --- changing -----------------------------------------------------------------------------------

static unsigned state;
static unsigned some(unsigned below) { // splitmix32
    unsigned z = state += 0x9e3779b9;
    z = (z ^ z >> 16) * 0x85ebca6b;
    z = (z ^ z >> 13) * 0xc2b2ae35;
    return (z ^ z >> 16) % below;
}

static json_t *new_value(const json_t *old) {
    static const json_int_t numbers[] = {-1,        0,         1,         2,          255,
                                         65535,     65536,     INT32_MAX, UINT32_MAX, INT64_MAX,
                                         INT64_MIN, 100000000, 1000000000};
    static const char *const texts[] = {"",
                                        "eof-ignored",
                                        "fin-unread",
                                        "reset-unclosed",
                                        "shutdown-unclosed",
                                        "open",
                                        "accept4",
                                        "CLOSE_WAIT",
                                        "unknown",
                                        "127.0.0.1:80",
                                        "[::1%7]:65536",
                                        "0xffffffffffffffff",
                                        "\x1b[31m\n",
                                        "\u202e",
                                        "]]>",
                                        "::error::%0A;,:",
                                        "held-by-parent",
                                        "/proc/self/exe"};
    switch (some(9)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(some(2));
    case 2:
        return json_array();
    case 3:
        return json_object();
    case 4:
        return json_real(some(2) ? 1e300 : 0.5);
    case 5:
        return json_integer((json_int_t)((uint64_t)json_integer_value(old) + some(5) - 2));
    case 6:
        return json_string(texts[some(sizeof texts / sizeof *texts)]);
    default:
        return json_integer(numbers[some(sizeof numbers / sizeof *numbers)]);
    }
}

static void change_object(json_t *object) {
    unsigned at = some((unsigned)json_object_size(object));
    void *item = json_object_iter(object);
    while (at--)
        item = json_object_iter_next(object, item);
    json_t *value = json_object_iter_value(item);
    if (some(8) == 0)
        json_object_del(object, json_object_iter_key(item));
    else
        json_object_set_new(object, json_object_iter_key(item), new_value(value));
}

static void change_array(json_t *array) {
    size_t at = some((unsigned)json_array_size(array));
    switch (some(4)) {
    case 0:
        json_array_remove(array, at);
        break;
    case 1:
        json_array_append_new(array, json_deep_copy(json_array_get(array, at)));
        break;
    default:
        json_array_set_new(array, at, new_value(json_array_get(array, at)));
    }
}

// Somewhere below `value`, mostly deep down; false where there is nothing to change.
static bool change(json_t *value) {
    json_t *child = NULL;
    if (json_object_size(value)) {
        unsigned at = some((unsigned)json_object_size(value));
        void *item = json_object_iter(value);
        while (at--)
            item = json_object_iter_next(value, item);
        child = json_object_iter_value(item);
    } else if (json_array_size(value)) {
        child = json_array_get(value, some((unsigned)json_array_size(value)));
    } else {
        return false;
    }
    if (some(8) && change(child))
        return true;
    if (json_is_object(value))
        change_object(value);
    else
        change_array(value);
    return true;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    state = seed;
    json_t *document = some(4) ? json_loadb((const char *)data, size, 0, NULL) : NULL;
    if (!document)
        return LLVMFuzzerMutate(data, size, max_size);
    for (unsigned changes = 1 + some(3); changes > 0; changes--)
        change(document);
    size_t needed = json_dumpb(document, (char *)data, max_size, JSON_COMPACT);
    json_decref(document);
    return needed && needed <= max_size ? needed : LLVMFuzzerMutate(data, size, max_size);
}
