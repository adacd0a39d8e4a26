#include "model.h"
#include "errors.h"
#include "gather.h"
#include "hash.h"
#include "procfs.h"
#include "report/names.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Tables that find what is there already: open addressing, at most half full.
struct table {
    void **slots;
    size_t mask, count;
};

struct index {
    struct table modules, stacks;
    uint32_t modules_room, stacks_room, processes_room, sites_room, destinations_room;
    const char *boot_id;
};

struct report *report_new(void) {
    struct report *report = must_allocate(1, sizeof *report);
    report->index = must_allocate(1, sizeof(struct index));
    return report;
}

void report_free(struct report *report) {
    if (!report)
        return;
    struct index *index = report->index;
    free(index->modules.slots);
    free(index->stacks.slots);
    free(index);
    for (uint32_t i = 0; i < report->process_count; i++)
        free(report->processes[i]->sockets);
    free(report->processes);
    free(report->modules);
    free(report->stacks);
    free(report->sites);
    free(report->destinations);
    free(report->kernel.peers);
    arena_free(&report->arena);
    free(report);
}

// --- tables -------------------------------------------------------------------------------------

typedef uint64_t hash_function(const void *element);
typedef bool same_function(const void *a, const void *b);

static void **find_slot(struct table *table, const void *wanted, hash_function *hash,
                        same_function *same) {
    for (size_t i = (size_t)hash(wanted);; i++) {
        void **slot = &table->slots[i & table->mask];
        if (!*slot || same(*slot, wanted))
            return slot;
    }
}

static void make_room(struct table *table, hash_function *hash, same_function *same) {
    if (table->slots && 2 * table->count < table->mask)
        return;
    struct table old = *table;
    size_t size = old.slots ? 2 * (old.mask + 1) : 64;
    table->slots = must_allocate(size, sizeof *table->slots);
    table->mask = size - 1;
    for (size_t i = 0; old.slots && i <= old.mask; i++)
        if (old.slots[i])
            *find_slot(table, old.slots[i], hash, same) = old.slots[i];
    free(old.slots);
}

// Appends to an array of pointers.
static void append(void ***array, uint32_t *count, uint32_t *room, void *element) {
    if (*count == *room) {
        *room = *room ? 2 * *room : 16;
        *array = must_reallocate(*array, *room, sizeof **array);
    }
    (*array)[(*count)++] = element;
}

// --- modules ------------------------------------------------------------------------------------

static uint64_t hash_module(const void *element) {
    const struct report_module *module = element;
    return hash_string(hash_string(HASH_START, module->path), module->build_id);
}

static bool same_module(const void *a, const void *b) {
    const struct report_module *one = a, *other = b;
    return strcmp(one->path, other->path) == 0 && strcmp(one->build_id, other->build_id) == 0;
}

struct report_module *gather_module(struct report *report, const char *path, const char *build_id) {
    struct index *index = report->index;
    struct report_module wanted = {.path = path, .build_id = build_id};
    make_room(&index->modules, hash_module, same_module);
    void **slot = find_slot(&index->modules, &wanted, hash_module, same_module);
    if (!*slot) {
        struct report_module *module = arena_take(&report->arena, 1, sizeof *module);
        module->path = arena_name(&report->arena, path);
        module->build_id = arena_name(&report->arena, build_id);
        *slot = module;
        index->modules.count++;
        append((void ***)&report->modules, &report->module_count, &index->modules_room, module);
    }
    return *slot;
}

// --- stacks -------------------------------------------------------------------------------------

static uint64_t hash_pointer(uint64_t hash, const void *pointer) {
    return hash_number(hash, (uint64_t)(uintptr_t)pointer);
}

static uint64_t hash_stack(const void *element) {
    const struct report_stack *stack = element;
    uint64_t hash = hash_number(HASH_START, stack->is_cut);
    for (uint32_t i = 0; i < stack->address_count; i++)
        hash =
            hash_number(hash_pointer(hash, stack->addresses[i].module), stack->addresses[i].offset);
    if (stack->addresses)
        return hash;
    for (uint32_t i = 0; i < stack->frame_count; i++) {
        const struct report_frame *frame = &stack->frames[i];
        hash = hash_pointer(hash_pointer(hash, frame->function), frame->file);
        hash = hash_number(hash_number(hash, frame->line), frame->module_offset);
    }
    return hash;
}

static bool same_frame(const struct report_frame *a, const struct report_frame *b) {
    // Strings are arena_name()s: equal ones are one.
    return a->function == b->function && a->module == b->module && a->build_id == b->build_id &&
           a->file == b->file && a->line == b->line && a->module_offset == b->module_offset &&
           a->function_offset == b->function_offset && a->inlined == b->inlined;
}

static bool same_stack(const void *a, const void *b) {
    const struct report_stack *one = a, *other = b;
    if (one->is_cut != other->is_cut || !one->addresses != !other->addresses)
        return false;
    if (one->addresses) {
        bool same = one->address_count == other->address_count;
        for (uint32_t i = 0; same && i < one->address_count; i++)
            same = one->addresses[i].module == other->addresses[i].module &&
                   one->addresses[i].offset == other->addresses[i].offset;
        return same;
    }
    bool same = one->frame_count == other->frame_count;
    for (uint32_t i = 0; same && i < one->frame_count; i++)
        same = same_frame(&one->frames[i], &other->frames[i]);
    return same;
}

static struct report_stack *intern(struct report *report, const struct report_stack *wanted) {
    struct index *index = report->index;
    make_room(&index->stacks, hash_stack, same_stack);
    void **slot = find_slot(&index->stacks, wanted, hash_stack, same_stack);
    struct report_stack *stack = *slot;
    if (stack)
        return stack;
    stack = arena_take(&report->arena, 1, sizeof *stack);
    *stack = *wanted;
    stack->number = report->stack_count;
    if (wanted->addresses) {
        size_t bytes = wanted->address_count * sizeof *wanted->addresses;
        stack->addresses = memcpy(arena_take(&report->arena, 1, bytes), wanted->addresses, bytes);
    } else {
        size_t bytes = wanted->frame_count * sizeof *wanted->frames;
        stack->frames = arena_take(&report->arena, 1, bytes);
        if (bytes)
            memcpy(stack->frames, wanted->frames, bytes);
    }
    *slot = stack;
    index->stacks.count++;
    append((void ***)&report->stacks, &report->stack_count, &index->stacks_room, stack);
    return stack;
}

struct report_stack *gather_stack(struct report *report, const struct report_address *addresses,
                                  uint32_t count, bool is_cut) {
    return intern(report, &(struct report_stack){
                              .addresses = addresses, .address_count = count, .is_cut = is_cut});
}

struct report_stack *gather_shown_stack(struct report *report, const struct report_frame *frames,
                                        uint32_t count, bool is_cut) {
    return intern(report, &(struct report_stack){.frames = (struct report_frame *)frames,
                                                 .frame_count = count,
                                                 .is_cut = is_cut});
}

// --- call sites ---------------------------------------------------------------------------------

struct report_site *gather_site(struct report *report, struct report_stack *stack) {
    struct index *index = report->index;
    if (stack->site)
        return stack->site;
    stack->site = arena_take(&report->arena, 1, sizeof *stack->site);
    stack->site->stack = stack;
    append((void ***)&report->sites, &report->site_count, &index->sites_room, stack->site);
    return stack->site;
}

struct report_destination *gather_destination(struct report *report) {
    struct index *index = report->index;
    if (report->destination_count == index->destinations_room) {
        index->destinations_room = index->destinations_room ? 2 * index->destinations_room : 16;
        report->destinations = must_reallocate(report->destinations, index->destinations_room,
                                               sizeof *report->destinations);
    }
    struct report_destination *destination = &report->destinations[report->destination_count++];
    *destination = (struct report_destination){0};
    return destination;
}

int report_kernel_peer_order(const void *a, const void *b) {
    const struct report_kernel_peer *one = a, *other = b;
    return memcmp(&one->peer, &other->peer, sizeof one->peer);
}

// --- processes ----------------------------------------------------------------------------------

struct report_process *gather_process(struct report *report) {
    struct index *index = report->index;
    struct report_process *process = arena_take(&report->arena, 1, sizeof *process);
    process->exe = process->boot_id = "";
    append((void ***)&report->processes, &report->process_count, &index->processes_room, process);
    return process;
}

bool gather_is_repeated(struct report *report, const char *ledger) {
    for (uint32_t i = 0; i < report->process_count; i++)
        if (report->processes[i]->ledger && strcmp(report->processes[i]->ledger, ledger) == 0) {
            report->repeated_count++;
            return true;
        }
    return false;
}

void gather_cmdline(struct report *report, struct report_process *process, const char *bytes,
                    size_t len_bytes) {
    size_t count = 0;
    for (size_t i = 0; i < len_bytes; i++)
        count += bytes[i] == '\0';
    if (len_bytes && bytes[len_bytes - 1] != '\0')
        count++;
    process->cmdline = arena_take(&report->arena, count, sizeof *process->cmdline);
    process->cmdline_count = (uint32_t)count;
    for (size_t i = 0, at = 0; i < count; i++) {
        size_t len = strnlen(bytes + at, len_bytes - at);
        process->cmdline[i] = arena_copy(&report->arena, bytes + at, len);
        at += len + 1;
    }
}

struct report_process *gather_find(const struct report *report, uint32_t pid,
                                   uint64_t start_time_ticks, const char *boot_id) {
    struct report_process *found = NULL;
    for (uint32_t i = 0; i < report->process_count; i++) {
        struct report_process *process = report->processes[i];
        bool same_boot =
            !process->boot_id[0] || !boot_id[0] || strcmp(process->boot_id, boot_id) == 0;
        if (process->pid == pid && process->start_time_ticks == start_time_ticks && same_boot &&
            (!found || process->created_ns >= found->created_ns))
            found = process;
    }
    return found;
}

const char *gather_boot_id(struct report *report) {
    struct index *index = report->index;
    if (index->boot_id)
        return index->boot_id;
    char text[64];
    if (procfs_read("/proc/sys/kernel/random/boot_id", text, sizeof text) < 0)
        text[0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    index->boot_id = arena_name(&report->arena, text);
    return index->boot_id;
}

int report_add_unwatched(struct report *report, uint32_t pid, const char *exe, const char *why) {
    struct report_process *process = gather_process(report);
    process->pid = pid;
    process->exe = exe ? arena_name(&report->arena, exe) : "";
    process->unwatched = arena_name(&report->arena, why);
    return 0;
}

// --- notes --------------------------------------------------------------------------------------

static void note(struct report *report, const char ***notes, uint32_t *count, const char *text) {
    const char *kept = arena_name(&report->arena, text);
    for (uint32_t i = 0; i < *count; i++)
        if ((*notes)[i] == kept)
            return;
    // A few per process at the most: a new array each time costs nothing worth saving.
    const char **grown = arena_take(&report->arena, *count + 1, sizeof *grown);
    if (*count)
        memcpy(grown, *notes, *count * sizeof *grown);
    grown[(*count)++] = kept;
    *notes = grown;
}

void report_note_text(struct report *report, const char *text) {
    note(report, &report->notes, &report->note_count, text);
}

void report_process_note(struct report *report, struct report_process *process, const char *text) {
    note(report, &process->notes, &process->note_count, text);
}
