// The stacks of a ledger, and what it counted at each.
#include "base/clock.h"
#include "gather.h"
#include "ledger_reading.h"
#include "procfs.h"
#include <stdio.h>
#include <string.h>

enum {
    PATH_BYTES = 4096
};

#define TIME_WAIT_NS 60000000000ull

// --- stacks -------------------------------------------------------------------------------------

static const char *string_at(struct ledger_reading *reader, uint32_t offset) {
    // read_region() left a NUL behind the last string. The modules' names may overlap: without a
    // limit of their length a small file could make us copy gigabytes.
    if (offset < reader->counts[LEDGER_STRINGS] &&
        strnlen(reader->strings + offset, PATH_BYTES) < PATH_BYTES)
        return reader->strings + offset;
    ledger_reading_damaged(reader, "the name of a module is missing");
    return "";
}

static struct report_module *module_of(struct ledger_reading *reader, uint32_t number) {
    if (number == 0)
        return NULL;
    if (number >= reader->counts[LEDGER_MODULES]) {
        ledger_reading_damaged(reader, "a stack has an unknown module");
        return NULL;
    }
    if (reader->known_modules[number])
        return reader->known_modules[number];
    const struct ledger_module *module = &reader->modules[number];
    char hex[2 * sizeof module->build_id + 1] = "";
    for (uint32_t i = 0; i < module->build_id_bytes && i < sizeof module->build_id; i++)
        snprintf(hex + 2 * i, 3, "%02x", module->build_id[i]);
    struct report_module *known =
        gather_module(reader->report, string_at(reader, module->path), hex);
    reader->known_modules[number] = known;
    return known;
}

struct report_stack *ledger_reading_stack(struct ledger_reading *reader, uint32_t id) {
    if (id == LEDGER_NO_STACK)
        return NULL;
    if (id >= reader->counts[LEDGER_STACKS]) {
        ledger_reading_damaged(reader, "a socket has an unknown stack");
        return NULL;
    }
    if (reader->known_stacks[id])
        return reader->known_stacks[id];
    const struct ledger_stack *stack = &reader->stacks[id];
    uint64_t frames = reader->counts[LEDGER_FRAMES];
    if (stack->depth == 0 || stack->depth > LEDGER_STACK_DEPTH_MAX || stack->first_frame == 0 ||
        stack->first_frame > frames || stack->depth > frames - stack->first_frame) {
        ledger_reading_damaged(reader, "a stack has no frames");
        return NULL;
    }
    // Stacks do not share frames: more than all frames together is no ledger of ours.
    reader->depths += stack->depth;
    if (reader->depths > frames) {
        ledger_reading_damaged(reader, "stacks overlap");
        return NULL;
    }
    struct report_address addresses[LEDGER_STACK_DEPTH_MAX];
    for (uint32_t i = 0; i < stack->depth; i++) {
        uint64_t frame = reader->frames[stack->first_frame + i];
        addresses[i].module = module_of(reader, LEDGER_FRAME_MODULE(frame));
        addresses[i].offset = LEDGER_FRAME_OFFSET(frame);
    }
    bool is_cut = stack->flags & (STACK_DEPTH_REACHED | STACK_CALL_SITE_ONLY);
    reader->known_stacks[id] = gather_stack(reader->report, addresses, stack->depth, is_cut);
    return reader->known_stacks[id];
}

// --- call sites ---------------------------------------------------------------------------------

static uint32_t latest_slot(const uint64_t *slots, uint32_t latest) {
    for (int i = 0; i < LEDGER_RECENT_SLOTS; i++)
        if ((uint32_t)slots[i] && (uint32_t)(slots[i] >> 32) > latest)
            latest = (uint32_t)(slots[i] >> 32);
    return latest;
}

// When the minute ends that is looked at: now in a process that runs, else when its ledger knew the
// last of it.
static uint64_t end_of_minute_ns(struct ledger_reading *reader) {
    const struct report_process *process = reader->process;
    struct procfs_status status;
    if (process->has_snapshot)
        return reader->header.snapshot_ns;
    bool same_boot = strcmp(gather_boot_id(reader->report), process->boot_id) == 0;
    if (same_boot && procfs_status((pid_t)process->pid, &status) == 0 &&
        status.start_ticks == process->start_time_ticks)
        return clock_now_ns();
    uint32_t latest = 0;
    for (uint64_t id = 1; id < reader->counts[LEDGER_STACKS]; id++)
        latest = latest_slot(reader->stacks[id].recent_active, latest);
    return ((uint64_t)latest + 1) * LEDGER_RECENT_SLOT_S * 1000000000u - 1;
}

// The events of the 60 s before that: TIME_WAIT lasts so long (TCP_TIMEWAIT_LEN in
// include/net/tcp.h). A slot that began before counts as a whole.
static uint64_t count_recent(const struct ledger_reading *reader, const uint64_t *slots,
                             double *per_second) {
    const uint64_t slot_ns = LEDGER_RECENT_SLOT_S * 1000000000ull;
    uint64_t end_ns = reader->minute_end_ns, count = 0;
    uint64_t begin_ns = end_ns > TIME_WAIT_NS ? end_ns - TIME_WAIT_NS : 0;
    uint64_t first = begin_ns / slot_ns, last = end_ns / slot_ns;
    for (int i = 0; i < LEDGER_RECENT_SLOTS; i++) {
        uint64_t slot = slots[i] >> 32;
        if (slot >= (uint32_t)first && slot <= (uint32_t)last)
            count += (uint32_t)slots[i];
    }
    uint64_t from_ns = first * slot_ns;
    if (reader->header.created_ns > from_ns)
        from_ns = reader->header.created_ns;
    double seconds = end_ns > from_ns ? (double)(end_ns - from_ns) / 1e9 : 0;
    *per_second = (double)count / (seconds < 1 ? 1 : seconds);
    return count;
}

static void add_site(struct ledger_reading *reader, uint32_t id) {
    const struct ledger_stack *stack = &reader->stacks[id];
    double per_second;
    struct report_stack *where = ledger_reading_stack(reader, id);
    if (!where)
        return;
    struct report_site *site = gather_site(reader->report, where);
    site->opened += stack->opened;
    site->closed += stack->closed;
    site->passive += stack->closed_passive;
    site->active += stack->closed_active;
    site->reset += stack->closed_reset;
    site->connecting += stack->closed_connecting;
    site->shared += stack->closed_shared;
    site->gave_up += stack->gave_up;
    site->gave_up_ms += stack->gave_up_ms;
    for (int i = 0; i < LEDGER_LIFETIME_BUCKETS; i++)
        site->lifetimes[i] += stack->lifetimes[i];
    if (stack->lifetime_max_ms > site->lifetime_max_ms)
        site->lifetime_max_ms = stack->lifetime_max_ms;
    site->is_sampled = site->is_sampled || (stack->flags & STACK_SAMPLED);
    site->recent_active += count_recent(reader, stack->recent_active, &per_second);
    site->recent_per_second += per_second;
    if (stack->close_stack)
        site->close_stack = ledger_reading_stack(reader, stack->close_stack);
}

// Of `closed_shared`, those that fork left to this process are not among `closed`.
static void add_closed_copies(struct ledger_reading *reader, uint32_t id) {
    const struct ledger_stack *stack = &reader->stacks[id];
    struct report_stack *where = ledger_reading_stack(reader, id);
    if (where)
        where->closed_by_children += stack->closed_shared - stack->closed;
}

static void add_destination(struct ledger_reading *reader, const struct ledger_destination *from) {
    enum {
        VALID = 2 // ledger_destination.state
    };
    if (from->state != VALID || from->stack == LEDGER_NO_STACK)
        return;
    struct report_stack *stack = ledger_reading_stack(reader, from->stack);
    if (!stack)
        return;
    gather_site(reader->report, stack);
    struct report_destination *destination = gather_destination(reader->report);
    destination->peer = from->peer;
    destination->stack = stack;
    destination->active = from->closed_active;
    destination->recent_active =
        count_recent(reader, from->recent_active, &destination->recent_per_second);
}

void ledger_reading_sites(struct ledger_reading *reader) {
    reader->minute_end_ns = end_of_minute_ns(reader);
    for (uint64_t id = 1; id < reader->counts[LEDGER_STACKS]; id++)
        if (reader->stacks[id].opened || reader->stacks[id].closed)
            add_site(reader, (uint32_t)id);
    for (uint64_t id = 1; id < reader->counts[LEDGER_STACKS]; id++)
        if (reader->stacks[id].closed_shared > reader->stacks[id].closed)
            add_closed_copies(reader, (uint32_t)id);
    for (uint64_t i = 0; i < reader->counts[LEDGER_DESTINATIONS]; i++)
        add_destination(reader, &reader->destinations[i]);
}
