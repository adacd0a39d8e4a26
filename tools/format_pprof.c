// A gzip'd profile.proto, as `go tool pprof` reads it: samples are the places where leaked sockets
// were opened, values their numbers.
#include "errors.h"
#include "format.h"
#include "hash.h"
#include "profile.pb-c.h"
#include "utf8.h"
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

typedef Perftools__Profiles__Profile Profile;
typedef Perftools__Profiles__ValueType ValueType;
typedef Perftools__Profiles__Sample Sample;
typedef Perftools__Profiles__Label Label;
typedef Perftools__Profiles__Mapping Mapping;
typedef Perftools__Profiles__Location Location;
typedef Perftools__Profiles__Line Line;
typedef Perftools__Profiles__Function Function;

// Distinct keys, numbered from 1 in the order they come.
struct numbering {
    struct {
        uint64_t key, number;
    } * slots;
    size_t mask, count;
};

struct builder {
    Profile profile;
    struct arena arena;
    struct numbering strings, mappings, locations, functions;
    size_t room[5]; // of the arrays: strings, mappings, locations, functions, samples
};

// --- numbers ------------------------------------------------------------------------------------

static size_t slot_of(const struct numbering *numbering, uint64_t key) {
    size_t i = (size_t)(key ^ key >> 32);
    while (numbering->slots[i & numbering->mask].number &&
           numbering->slots[i & numbering->mask].key != key)
        i++;
    return i & numbering->mask;
}

static void make_room(struct numbering *numbering) {
    if (numbering->slots && 2 * numbering->count < numbering->mask)
        return;
    struct numbering old = *numbering;
    numbering->mask = old.slots ? 2 * old.mask + 1 : 255;
    numbering->slots = must_allocate(numbering->mask + 1, sizeof *numbering->slots);
    for (size_t i = 0; old.slots && i <= old.mask; i++)
        if (old.slots[i].number)
            numbering->slots[slot_of(numbering, old.slots[i].key)] = old.slots[i];
    free(old.slots);
}

// Returns the key's number; *is_new says that it had none before.
static uint64_t number_of(struct numbering *numbering, uint64_t key, bool *is_new) {
    make_room(numbering);
    size_t slot = slot_of(numbering, key);
    *is_new = numbering->slots[slot].number == 0;
    if (*is_new) {
        numbering->slots[slot].key = key;
        numbering->slots[slot].number = ++numbering->count;
    }
    return numbering->slots[slot].number;
}

// Appends to one of the profile's arrays of pointers.
#define APPEND(builder, which, field, element)                                                     \
    do {                                                                                           \
        Profile *p = &(builder)->profile;                                                          \
        if (p->n_##field == (builder)->room[which]) {                                              \
            (builder)->room[which] = (builder)->room[which] ? 2 * (builder)->room[which] : 64;     \
            p->field = must_reallocate(p->field, (builder)->room[which], sizeof *p->field);        \
        }                                                                                          \
        p->field[p->n_##field++] = (element);                                                      \
    } while (0)

// --- parts --------------------------------------------------------------------------------------

static int64_t string_of(struct builder *builder, const char *text) {
    bool is_new;
    if (!text)
        text = "";
    int64_t number =
        (int64_t)number_of(&builder->strings, hash_string(HASH_START, text), &is_new) - 1;
    if (is_new) {
        char *plain = utf8_plain(text); // pprof prints names as they are
        APPEND(builder, 0, string_table, arena_copy(&builder->arena, plain, strlen(plain)));
        free(plain);
    }
    return number;
}

static uint64_t mapping_of(struct builder *builder, const struct report_frame *frame) {
    bool is_new;
    if (!frame->module)
        return 0;
    uint64_t key = hash_string(hash_string(HASH_START, frame->module), frame->build_id);
    uint64_t id = number_of(&builder->mappings, key, &is_new);
    if (is_new) {
        Mapping *mapping = arena_take(&builder->arena, 1, sizeof *mapping);
        perftools__profiles__mapping__init(mapping);
        mapping->id = id;
        // Each file in a range of its own: pprof looks for overlaps.
        mapping->memory_start = id << 48;
        mapping->memory_limit = (id + 1) << 48;
        mapping->filename = string_of(builder, frame->module);
        mapping->build_id = string_of(builder, frame->build_id);
        mapping->has_functions = mapping->has_filenames = true;
        mapping->has_line_numbers = mapping->has_inline_frames = true;
        APPEND(builder, 1, mapping, mapping);
    }
    return id;
}

static uint64_t function_of(struct builder *builder, const struct report_frame *frame) {
    bool is_new;
    char place[64];
    const char *name = frame->function;
    if (!name) {
        snprintf(place, sizeof place, "0x%llx", (unsigned long long)frame->module_offset);
        name = place;
    }
    uint64_t key = hash_string(hash_string(HASH_START, name), frame->file);
    uint64_t id = number_of(&builder->functions, key, &is_new);
    if (is_new) {
        Function *function = arena_take(&builder->arena, 1, sizeof *function);
        perftools__profiles__function__init(function);
        function->id = id;
        function->name = function->system_name = string_of(builder, name);
        function->filename = string_of(builder, frame->file);
        APPEND(builder, 3, function, function);
    }
    return id;
}

// A physical frame: `count` lines, of which all but the last are inlined.
static uint64_t location_of(struct builder *builder, const struct report_frame *frames,
                            uint32_t count) {
    bool is_new;
    uint64_t mapping = mapping_of(builder, frames);
    uint64_t key = hash_number(hash_number(HASH_START, mapping), frames->module_offset);
    for (uint32_t i = 0; i < count; i++)
        key = hash_number(hash_string(key, frames[i].function), frames[i].line);
    uint64_t id = number_of(&builder->locations, key, &is_new);
    if (!is_new)
        return id;
    Location *location = arena_take(&builder->arena, 1, sizeof *location);
    perftools__profiles__location__init(location);
    location->id = id;
    location->mapping_id = mapping;
    location->address = (mapping << 48) + (frames->module_offset & 0xffffffffffffu);
    location->n_line = count;
    location->line = arena_take(&builder->arena, count, sizeof *location->line);
    for (uint32_t i = 0; i < count; i++) {
        Line *line = arena_take(&builder->arena, 1, sizeof *line);
        perftools__profiles__line__init(line);
        line->function_id = function_of(builder, &frames[i]);
        line->line = frames[i].line;
        location->line[i] = line;
    }
    APPEND(builder, 2, location, location);
    return id;
}

static Label *label_of(struct builder *builder, const char *key, const char *text, int64_t number) {
    Label *label = arena_take(&builder->arena, 1, sizeof *label);
    perftools__profiles__label__init(label);
    label->key = string_of(builder, key);
    label->str = text ? string_of(builder, text) : 0;
    label->num = number;
    return label;
}

static void add_sample(struct builder *builder, const struct report_finding *finding) {
    const struct report_stack *stack = finding->sockets[0]->birth;
    static const struct report_frame unknown = {.function = "[origin unknown]"};
    const struct report_frame *frames = stack ? stack->frames : &unknown;
    uint32_t count = stack ? stack->frame_count : 1;
    Sample *sample = arena_take(&builder->arena, 1, sizeof *sample);
    perftools__profiles__sample__init(sample);
    sample->location_id = arena_take(&builder->arena, count, sizeof *sample->location_id);
    for (uint32_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && frames[end - 1].inlined;)
            end++;
        if (!frames[first].hidden)
            sample->location_id[sample->n_location_id++] =
                location_of(builder, &frames[first], end - first);
    }
    sample->n_value = 1;
    sample->value = arena_take(&builder->arena, 1, sizeof *sample->value);
    sample->value[0] = finding->socket_count;
    sample->n_label = 2;
    sample->label = arena_take(&builder->arena, 2, sizeof *sample->label);
    sample->label[0] = label_of(builder, "verdict", verdict_name(finding->verdict), 0);
    sample->label[1] = label_of(builder, "pid", NULL, finding->process->pid);
    APPEND(builder, 4, sample, sample);
}

static ValueType *value_type(struct builder *builder) {
    ValueType *type = arena_take(&builder->arena, 1, sizeof *type);
    perftools__profiles__value_type__init(type);
    type->type = string_of(builder, "leaked_sockets");
    type->unit = string_of(builder, "count");
    return type;
}

// --- writing ------------------------------------------------------------------------------------

static void write_zipped(FILE *out, const uint8_t *bytes, size_t len) {
    enum {
        GZIP = 16 // added to the window size: zlib.h, deflateInit2
    };
    z_stream stream = {.next_in = (uint8_t *)bytes, .avail_in = (uInt)len};
    uint8_t buffer[16384] = {0};
    int result;
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + GZIP, 8,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
        error_say("out of memory");
        exit(STATUS_FAILED);
    }
    do {
        stream.next_out = buffer;
        stream.avail_out = sizeof buffer;
        result = deflate(&stream, Z_FINISH);
        fwrite(buffer, 1, sizeof buffer - stream.avail_out, out);
    } while (result == Z_OK || result == Z_BUF_ERROR);
    deflateEnd(&stream);
}

static void free_builder(struct builder *builder) {
    Profile *profile = &builder->profile;
    free(profile->string_table);
    free(profile->mapping);
    free(profile->location);
    free(profile->function);
    free(profile->sample);
    free(builder->strings.slots);
    free(builder->mappings.slots);
    free(builder->locations.slots);
    free(builder->functions.slots);
    arena_free(&builder->arena);
}

void format_pprof(const struct report *report, FILE *out, const struct render_options *options) {
    struct builder builder = {0};
    Profile *profile = &builder.profile;
    perftools__profiles__profile__init(profile);
    string_of(&builder, "");
    ValueType *type = value_type(&builder);
    profile->sample_type = &type;
    profile->n_sample_type = 1;
    profile->default_sample_type = type->type;
    for (uint32_t i = 0; i < report->class_count; i++)
        for (uint32_t k = 0; k < report->classes[i].finding_count; k++)
            if (format_is_shown(report->classes[i].findings[k], options))
                add_sample(&builder, report->classes[i].findings[k]);
    size_t len = perftools__profiles__profile__get_packed_size(profile);
    uint8_t *bytes = must_allocate(1, len);
    perftools__profiles__profile__pack(profile, bytes);
    write_zipped(out, bytes, len);
    free(bytes);
    free_builder(&builder);
}
