// What the frames of a recorded stack are called.
#include "base/format.h"
#include "report/parts.h"
#include <string.h>

static bool is_start_up(const char *function) {
    return function && (strcmp(function, "_start") == 0 || strcmp(function, "clone") == 0 ||
                        strcmp(function, "clone3") == 0 ||
                        strncmp(function, "__libc_start", strlen("__libc_start")) == 0 ||
                        strcmp(function, "start_thread") == 0);
}

static bool is_c_library(const struct ledger_module *module) {
    return strstr(ledger_string(module->path), "/libc.so.") != NULL;
}

static bool is_in_c_library(const struct ledger_stack *stack, uint32_t index) {
    uint32_t module = LEDGER_FRAME_MODULE(ledger.frames[stack->first_frame + index]);
    return module && is_c_library(&ledger.modules[module]);
}

// From here outwards there is nothing of the program's: libc's call of main or of the thread.
static bool is_outermost(const struct ledger_stack *stack, uint32_t index, const char *function) {
    if (is_start_up(function))
        return true;
    for (uint32_t i = index; i < stack->depth; i++)
        if (!is_in_c_library(stack, i))
            return i + 1 == stack->depth && i > index; // _start, behind libc's frames
    return true;
}

static const char *path_to_read(const struct ledger_module *module) {
    const char *path = ledger_string(module->path);
    // Also where the program was deleted or replaced since it started.
    return strcmp(path, ledger.header->exe) == 0 ? "/proc/thread-self/exe" : path;
}

bool frame_name(void *context, uint32_t id, uint32_t index, struct text_frame *out) {
    struct report *report = context;
    const struct ledger_stack *stack = &ledger.stacks[id];
    if (index >= stack->depth)
        return false;
    uint64_t frame = ledger.frames[stack->first_frame + index];
    uint32_t number = LEDGER_FRAME_MODULE(frame);
    out->module_offset = LEDGER_FRAME_OFFSET(frame);
    if (number == 0)
        return true;
    const struct ledger_module *module = &ledger.modules[number];
    out->module = ledger_string(module->path);
    // A return address may be the first byte behind a function that ends in the call: look up the
    // call, which lies before it.
    out->function =
        symbols_name(&report->symbols, number, path_to_read(module), module->build_id,
                     module->build_id_bytes, out->module_offset - 1, &out->function_offset);
    if (out->function)
        out->function_offset++;
    out->hidden = is_outermost(stack, index, out->function);
    return true;
}
