#include "symbolize.h"
#include "base_name.h"
#include "debug_lines.h"
#include "demangle.h"
#include "errors.h"
#include "progress.h"
#include "threads.h"
#include <stdlib.h>
#include <string.h>

// A distinct address, and what is there.
struct place {
    struct report_module *module; // NULL: in no file
    uint64_t offset;
    struct report_frame *frames;
    uint32_t count;
};

struct places {
    struct place *list; // by module and offset
    size_t count, room;
};

// --- which --------------------------------------------------------------------------------------

static int by_place(const void *a, const void *b) {
    const struct place *one = a, *other = b;
    if (one->module != other->module)
        return (uintptr_t)one->module < (uintptr_t)other->module ? -1 : 1;
    return one->offset < other->offset ? -1 : one->offset > other->offset;
}

static void collect_stack(struct places *places, struct report_stack *stack, bool *seen) {
    if (!stack || !stack->addresses || seen[stack->number])
        return;
    seen[stack->number] = true;
    for (uint32_t i = 0; i < stack->address_count; i++) {
        if (places->count == places->room) {
            places->room = places->room ? 2 * places->room : 256;
            places->list = must_reallocate(places->list, places->room, sizeof *places->list);
        }
        places->list[places->count++] = (struct place){.module = stack->addresses[i].module,
                                                       .offset = stack->addresses[i].offset};
    }
}

static void collect(struct places *places, const struct report *report, bool *seen) {
    for (uint32_t i = 0; i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->socket_count; k++) {
            const struct report_socket *socket = &report->processes[i]->sockets[k];
            collect_stack(places, socket->birth, seen);
            collect_stack(places, socket->end_of_stream, seen);
            collect_stack(places, socket->error, seen);
            collect_stack(places, socket->shutdown, seen);
        }
    for (uint32_t i = 0; i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->thread_count; k++)
            collect_stack(places, report->processes[i]->threads[k].stack, seen);
    for (uint32_t i = 0; report->has_named_sites && i < report->site_count; i++) {
        collect_stack(places, report->sites[i]->stack, seen);
        collect_stack(places, report->sites[i]->close_stack, seen);
    }
    if (places->count == 0)
        return;
    qsort(places->list, places->count, sizeof *places->list, by_place);
    size_t kept = 1;
    for (size_t i = 1; i < places->count; i++)
        if (by_place(&places->list[kept - 1], &places->list[i]) != 0)
            places->list[kept++] = places->list[i];
    places->count = kept;
}

// --- what is there ------------------------------------------------------------------------------

static const char *readable(struct report *report, const char *name) {
    if (!name)
        return NULL;
    char *text = demangle(name);
    const char *kept = arena_name(&report->arena, text);
    free(text);
    return kept;
}

static void name_place(struct report *report, struct place *place, const struct module_file *file,
                       struct debug_lines *lines) {
    // A return address may be the first byte behind a function that ends in the call: look up the
    // call, which lies before it.
    uint64_t call = place->offset ? place->offset - 1 : 0;
    struct debug_place found = {0};
    bool has_lines = debug_lines_find(lines, call, &found);
    const struct module_symbol *symbol = module_file_symbol(file, call);
    place->count = has_lines ? found.count : 1;
    place->frames = arena_take(&report->arena, place->count, sizeof *place->frames);
    for (uint32_t i = 0; i < place->count; i++) {
        struct report_frame *frame = &place->frames[i];
        frame->function = readable(report, found.lines[i].function);
        frame->file = arena_name(&report->arena, found.lines[i].file);
        frame->line = found.lines[i].line;
        frame->inlined = i + 1 < place->count;
    }
    // A static C++ function has no linker's name in DWARF, and the symbol says more than its plain
    // name: namespace and parameters.
    struct report_frame *function = &place->frames[place->count - 1];
    const char *plain = has_lines ? found.lines[place->count - 1].function : NULL;
    bool is_mangled =
        symbol && (strncmp(symbol->name, "_Z", 2) == 0 || strncmp(symbol->name, "_R", 2) == 0);
    if (symbol && (!plain || (plain[0] != '_' && is_mangled)))
        function->function = readable(report, symbol->name);
    if (symbol)
        function->function_offset = place->offset - symbol->address;
    else if (found.has_start && found.start < place->offset)
        function->function_offset = place->offset - found.start;
}

static void name_module_less(struct report *report, struct place *place) {
    place->count = 1;
    place->frames = arena_take(&report->arena, 1, sizeof *place->frames);
}

static void fill_common(struct place *place) {
    for (uint32_t i = 0; i < place->count; i++) {
        struct report_frame *frame = &place->frames[i];
        frame->module_offset = place->offset;
        if (place->module) {
            frame->module = place->module->path;
            frame->build_id = place->module->build_id[0] ? place->module->build_id : NULL;
        }
    }
}

// --- all of them --------------------------------------------------------------------------------

static void name_places(struct report *report, struct places *places, struct progress *progress) {
    struct module_file file = {0};
    struct debug_lines *lines = NULL;
    for (size_t i = 0; i < places->count; i++) {
        struct place *place = &places->list[i];
        if (place->module && (i == 0 || place->module != places->list[i - 1].module)) {
            debug_lines_close(lines);
            module_file_close(&file);
            module_file_open(&file, report, place->module);
            lines = debug_lines_open(&file);
        }
        if (place->module)
            name_place(report, place, &file, lines);
        else
            name_module_less(report, place);
        fill_common(place);
        progress_set(progress, i + 1, places->count);
    }
    debug_lines_close(lines);
    module_file_close(&file);
}

// --- the C library's start-up -------------------------------------------------------------------

static bool is_start_up(const char *function) {
    static const char *const names[] = {"_start",  "clone",    "clone3",
                                        "__clone", "__clone3", "start_thread"};
    if (!function)
        return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(function, names[i]) == 0)
            return true;
    return strncmp(function, "__libc_start", strlen("__libc_start")) == 0;
}

static bool is_c_library(const struct report_frame *frame) {
    return frame->module && strstr(frame->module, "/libc.so.");
}

// The same rule as the library's (is_outermost in preload/report/frames.c): from the first frame on
// behind which there is only the C library, or _start.
static bool is_ours(const struct report_frame *frame) {
    return frame->module && strcmp(base_name(frame->module), "libsockleak.so") == 0;
}

void symbolize_hide_frames(struct report_stack *stack) {
    uint32_t first = stack->frame_count;
    bool only_libc = true;
    for (uint32_t i = stack->frame_count; i-- > 0 && only_libc;) {
        const struct report_frame *frame = &stack->frames[i];
        bool is_entry = i + 1 == stack->frame_count && frame->function &&
                        strcmp(frame->function, "_start") == 0;
        only_libc = is_entry || is_c_library(frame);
        if (only_libc)
            first = i;
    }
    for (uint32_t i = 0; i < first; i++)
        if (is_start_up(stack->frames[i].function))
            first = i;
    // A stack of nothing else is shown: better than none.
    for (uint32_t i = first ? first : stack->frame_count; i < stack->frame_count; i++)
        stack->frames[i].hidden = true;
    // Of a thread in a call, the hook that it goes through.
    for (uint32_t i = 0; i < stack->frame_count; i++)
        stack->frames[i].hidden |= is_ours(&stack->frames[i]);
}

// ------------------------------------------------------------------------------------------------

static void fill_stack(struct report *report, struct report_stack *stack,
                       const struct places *places) {
    uint32_t count = 0, at = 0;
    const struct place **found = arena_take(&report->arena, stack->address_count, sizeof *found);
    for (uint32_t i = 0; i < stack->address_count; i++) {
        struct place wanted = {.module = stack->addresses[i].module,
                               .offset = stack->addresses[i].offset};
        found[i] = bsearch(&wanted, places->list, places->count, sizeof wanted, by_place);
        count += found[i]->count;
    }
    stack->frames = arena_take(&report->arena, count, sizeof *stack->frames);
    stack->frame_count = count;
    for (uint32_t i = 0; i < stack->address_count; i++)
        for (uint32_t k = 0; k < found[i]->count; k++)
            stack->frames[at++] = found[i]->frames[k];
    symbolize_hide_frames(stack);
}

static void note_problems(struct report *report) {
    for (uint32_t i = 0; i < report->module_count; i++)
        if (report->modules[i]->problem)
            report_note_text(report, report->modules[i]->problem);
}

void symbolize_report(struct report *report, bool wants_progress) {
    struct places places = {0};
    bool *seen = must_allocate(report->stack_count, sizeof *seen);
    struct progress *progress = wants_progress ? progress_start("reading symbols") : NULL;
    collect(&places, report, seen);
    name_places(report, &places, progress);
    for (uint32_t i = 0; i < report->stack_count; i++)
        if (seen[i])
            fill_stack(report, report->stacks[i], &places);
    progress_end(progress);
    note_problems(report);
    free(places.list);
    free(seen);
}
