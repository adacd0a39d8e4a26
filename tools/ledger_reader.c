#include "ledger_reader.h"
#include "base/options.h"
#include "errors.h"
#include "procfs.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    RECORDS_AT_ONCE = 1024,
    PATH_BYTES = 4096,
    NOTE_BYTES = 160
};

#define TIME_WAIT_NS 60000000000ull

// What the library makes at most, in elements: see `plan` in preload/ledger/ledger.c. More is
// damage, or an attempt to make us take memory.
static const struct {
    uint64_t elements_max;
    uint32_t element_bytes;
    const char *name;
} layout[LEDGER_REGIONS] = {
    [LEDGER_FDS] = {1u << 20, sizeof(uint32_t), "file descriptors"},
    [LEDGER_RECORDS] = {1u << 20, sizeof(struct ledger_record), "records"},
    [LEDGER_BUCKETS] = {LEDGER_BUCKET_COUNT, sizeof(uint32_t), "buckets"},
    [LEDGER_STACKS] = {1u << 16, sizeof(struct ledger_stack), "stacks"},
    [LEDGER_FRAMES] = {1u << 21, sizeof(uint64_t), "frames"},
    [LEDGER_MODULES] = {1u << 12, sizeof(struct ledger_module), "modules"},
    [LEDGER_STRINGS] = {1u << 20, 1, "strings"},
    [LEDGER_DESTINATIONS] = {LEDGER_DESTINATION_COUNT, sizeof(struct ledger_destination),
                             "destinations"},
};

struct reader {
    struct report *report;
    const struct ledger_source *source;
    struct report_process *process;
    struct ledger_header header;
    uint64_t counts[LEDGER_REGIONS]; // elements that are there to be read
    uint32_t *fds;
    struct ledger_stack *stacks;
    uint64_t *frames;
    struct ledger_module *modules;
    char *strings;
    struct ledger_destination *destinations;
    struct report_module **known_modules; // by number; NULL not looked at
    struct report_stack **known_stacks;   // by id
    uint32_t *first_fd;                   // by record number: fd + 1
    uint32_t *next_fd;                    // by fd: fd + 1
    uint64_t depths;                      // of the stacks so far
    uint64_t minute_end_ns;               // of "the last 60 s", CLOCK_MONOTONIC
    uint32_t sockets_room;
};

static void damaged(struct reader *reader, const char *what) {
    char text[2 * NOTE_BYTES];
    snprintf(text, sizeof text, "the ledger is incomplete: %s", what);
    report_process_note(reader->report, reader->process, text);
}

// --- the frame of it ----------------------------------------------------------------------------

bool ledger_reader_knows(const void *bytes, size_t len_bytes) {
    static const char magic[8] = LEDGER_MAGIC;
    return len_bytes >= sizeof magic && memcmp(bytes, magic, sizeof magic) == 0;
}

static int check_header(const struct ledger_header *header, const char *label) {
    if (!ledger_reader_knows(header, sizeof *header)) {
        error_say("%s: not a ledger: it does not start with %s", label, LEDGER_MAGIC);
        return -EBADMSG;
    }
    if (header->version != LEDGER_VERSION) {
        error_say("%s: ledger version %u, and this sockleak reads version %d: use the sockleak "
                  "that came with the library",
                  label, header->version, LEDGER_VERSION);
        return -EBADMSG;
    }
    if (header->header_bytes != LEDGER_HEADER_BYTES ||
        header->record_bytes != sizeof(struct ledger_record) ||
        header->stack_bytes != sizeof(struct ledger_stack) ||
        header->module_bytes != sizeof(struct ledger_module) ||
        header->destination_bytes != sizeof(struct ledger_destination)) {
        error_say("%s: damaged ledger, or one of another machine: its header has impossible sizes",
                  label);
        return -EBADMSG;
    }
    return 0;
}

// How much of a region there is: what the header says, or less.
static void measure(struct reader *reader, enum ledger_region_id id) {
    const struct ledger_region *region = &reader->header.regions[id];
    uint64_t bytes = region->committed_bytes;
    uint64_t element = layout[id].element_bytes;
    char text[NOTE_BYTES];
    if (region->offset < LEDGER_HEADER_BYTES || region->offset % 8 ||
        region->offset > reader->source->bytes)
        bytes = 0;
    else if (bytes > reader->source->bytes - region->offset)
        bytes = reader->source->bytes - region->offset;
    uint64_t count = region->used < bytes / element ? region->used : bytes / element;
    if (count > layout[id].elements_max)
        count = layout[id].elements_max;
    reader->counts[id] = count;
    // An fd table may be shorter than its highest fd by design: `used` is raised after it grew.
    if (count < region->used && !(region->committed_bytes == 0 && region->used <= 1)) {
        snprintf(text, sizeof text, "%llu of %llu %s are missing",
                 (unsigned long long)(region->used - count), (unsigned long long)region->used,
                 layout[id].name);
        damaged(reader, text);
    }
}

static void *read_region(struct reader *reader, enum ledger_region_id id, size_t extra_bytes) {
    uint64_t bytes = reader->counts[id] * layout[id].element_bytes;
    void *memory = must_allocate(1, bytes + extra_bytes);
    if (bytes && reader->source->read(reader->source->context, reader->header.regions[id].offset,
                                      memory, bytes) < 0) {
        char text[NOTE_BYTES];
        snprintf(text, sizeof text, "its %s cannot be read", layout[id].name);
        damaged(reader, text);
        reader->counts[id] = 0;
        memset(memory, 0, bytes + extra_bytes);
    }
    return memory;
}

// --- the process --------------------------------------------------------------------------------

static enum report_ended ended_of(uint32_t ended) {
    switch (ended) {
    case ENDED_EXIT:
    case ENDED_QUICK_EXIT:
        return REPORT_EXIT;
    case ENDED_UNDERSCORE_EXIT:
        return REPORT_UNDERSCORE_EXIT;
    case ENDED_SIGNAL:
        return REPORT_SIGNAL;
    default:
        return REPORT_RUNNING; // or killed: judge.c asks the kernel
    }
}

static const char *bounded_name(struct report *report, const char *text, size_t bytes) {
    char copy[LEDGER_EXE_BYTES + 1];
    size_t len = strnlen(text, bytes < sizeof copy ? bytes : sizeof copy - 1);
    memcpy(copy, text, len);
    copy[len] = '\0';
    return arena_name(&report->arena, copy);
}

static void add_process(struct reader *reader) {
    const struct ledger_header *header = &reader->header;
    struct report_process *process = gather_process(reader->report);
    reader->process = process;
    process->pid = header->pid;
    process->parent_pid = header->parent_pid;
    process->start_time_ticks = header->start_time_ticks;
    process->created_ns = header->created_ns;
    if (header->created_epoch_ns > header->created_ns)
        process->epoch_offset_ns = header->created_epoch_ns - header->created_ns;
    process->boot_id = bounded_name(reader->report, header->boot_id, sizeof header->boot_id);
    process->exe = bounded_name(reader->report, header->exe, sizeof header->exe);
    uint32_t bytes = header->cmdline_bytes;
    if (bytes > sizeof header->cmdline)
        bytes = sizeof header->cmdline;
    gather_cmdline(reader->report, process, header->cmdline, bytes);
    process->ended = ended_of(header->ended);
    process->has_snapshot = process->ended != REPORT_RUNNING;
    process->has_end_status = process->has_snapshot;
    process->end_status = process->has_snapshot ? header->end_status : 0;
    process->has_execed = !process->has_snapshot && header->exec_ns != 0;
    process->process = header->process;
    process->counters = header->counters;
    process->has_rules = header->families || header->grace_ms || header->exit_grace_ms;
    process->unix_sockets = header->families != FAMILIES_INET;
    process->inet_sockets = header->families != FAMILIES_UNIX;
    process->grace_ms = header->grace_ms;
    process->exit_grace_ms = header->exit_grace_ms;
}

// --- stacks -------------------------------------------------------------------------------------

static const char *string_at(struct reader *reader, uint32_t offset) {
    // read_region() left a NUL behind the last string. The modules' names may overlap: without a
    // limit of their length a small file could make us copy gigabytes.
    if (offset < reader->counts[LEDGER_STRINGS] &&
        strnlen(reader->strings + offset, PATH_BYTES) < PATH_BYTES)
        return reader->strings + offset;
    damaged(reader, "the name of a module is missing");
    return "";
}

static struct report_module *module_of(struct reader *reader, uint32_t number) {
    if (number == 0)
        return NULL;
    if (number >= reader->counts[LEDGER_MODULES]) {
        damaged(reader, "a stack has an unknown module");
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

static struct report_stack *stack_of(struct reader *reader, uint32_t id) {
    if (id == LEDGER_NO_STACK)
        return NULL;
    if (id >= reader->counts[LEDGER_STACKS]) {
        damaged(reader, "a socket has an unknown stack");
        return NULL;
    }
    if (reader->known_stacks[id])
        return reader->known_stacks[id];
    const struct ledger_stack *stack = &reader->stacks[id];
    uint64_t frames = reader->counts[LEDGER_FRAMES];
    if (stack->depth == 0 || stack->depth > LEDGER_STACK_DEPTH_MAX || stack->first_frame == 0 ||
        stack->first_frame > frames || stack->depth > frames - stack->first_frame) {
        damaged(reader, "a stack has no frames");
        return NULL;
    }
    // Stacks do not share frames: more than all frames together is no ledger of ours.
    reader->depths += stack->depth;
    if (reader->depths > frames) {
        damaged(reader, "stacks overlap");
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

// --- sockets ------------------------------------------------------------------------------------

static void index_fds(struct reader *reader) {
    uint64_t records = reader->counts[LEDGER_RECORDS], fds = reader->counts[LEDGER_FDS];
    reader->first_fd = must_allocate(records, sizeof *reader->first_fd);
    reader->next_fd = must_allocate(fds, sizeof *reader->next_fd);
    for (uint64_t fd = fds; fd-- > 0;) { // from the end, so that the lists rise
        uint32_t number = reader->fds[fd];
        if (number == 0)
            continue;
        if (number >= records) {
            damaged(reader, "a file descriptor has an unknown record");
            continue;
        }
        reader->next_fd[fd] = reader->first_fd[number];
        reader->first_fd[number] = (uint32_t)fd + 1;
    }
}

static void take_fds(struct reader *reader, struct report_socket *socket, uint32_t number) {
    uint32_t count = 0, at = 0;
    for (uint32_t fd = reader->first_fd[number]; fd; fd = reader->next_fd[fd - 1])
        count++;
    int32_t *fds = arena_take(&reader->report->arena, count, sizeof *fds);
    for (uint32_t fd = reader->first_fd[number]; fd; fd = reader->next_fd[fd - 1])
        fds[at++] = (int32_t)fd - 1;
    socket->fds = fds;
    socket->fd_count = count;
    socket->record.first_fd = fds[0];
    socket->record.fd_count = (uint16_t)(count < UINT16_MAX ? count : UINT16_MAX);
}

// accept takes family and type from the listener's record; where that was not seen born they are
// not known before a snapshot. What the addresses and the events imply is filled in.
static void complete(struct ledger_record *record) {
    bool is_stream = record->eof_ns || record->birth_call == CALL_ACCEPT ||
                     record->birth_call == CALL_ACCEPT4 || (record->flags & RECORD_SHUT_WR);
    if (record->type == 0 && is_stream)
        record->type = SOCK_STREAM;
    uint8_t family = record->peer.family ? record->peer.family : record->local.family;
    if (record->family == 0 && family == ADDRESS_INET)
        record->family = AF_INET;
    if (record->family == 0 && family == ADDRESS_INET6)
        record->family = AF_INET6;
}

static struct report_socket *new_socket(struct reader *reader) {
    struct report_process *process = reader->process;
    if (process->socket_count == reader->sockets_room) {
        reader->sockets_room = reader->sockets_room ? 2 * reader->sockets_room : 16;
        process->sockets =
            must_reallocate(process->sockets, reader->sockets_room, sizeof *process->sockets);
    }
    struct report_socket *socket = &process->sockets[process->socket_count++];
    memset(socket, 0, sizeof *socket);
    return socket;
}

static void add_socket(struct reader *reader, const struct ledger_record *record, uint32_t number) {
    struct report_socket *socket = new_socket(reader);
    socket->record = *record;
    socket->number = number;
    complete(&socket->record);
    take_fds(reader, socket, number);
    socket->process = reader->process;
    socket->birth = stack_of(reader, record->birth_stack);
    socket->end_of_stream = record->eof_ns ? stack_of(reader, record->eof_stack) : NULL;
    socket->error = record->error ? stack_of(reader, record->error_stack) : NULL;
    socket->shutdown = record->shutdown_ns ? stack_of(reader, record->shutdown_stack) : NULL;
}

static void add_sockets(struct reader *reader) {
    uint64_t count = reader->counts[LEDGER_RECORDS];
    uint64_t offset = reader->header.regions[LEDGER_RECORDS].offset;
    struct ledger_record *records = must_allocate(RECORDS_AT_ONCE, sizeof *records);
    for (uint64_t first = 0; first < count; first += RECORDS_AT_ONCE) {
        uint64_t some = count - first < RECORDS_AT_ONCE ? count - first : RECORDS_AT_ONCE;
        if (reader->source->read(reader->source->context, offset + first * sizeof *records, records,
                                 some * sizeof *records) < 0) {
            damaged(reader, "some of its records cannot be read");
            break;
        }
        for (uint64_t i = 0; i < some; i++) {
            // Number 0 is none. A record in no fd's slot is free, or on its way from or to one.
            uint32_t number = (uint32_t)(first + i);
            if (number && records[i].inode && reader->first_fd[number])
                add_socket(reader, &records[i], number);
        }
    }
    free(records);
}

// --- call sites ---------------------------------------------------------------------------------

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t latest_slot(const uint64_t *slots, uint32_t latest) {
    for (int i = 0; i < LEDGER_RECENT_SLOTS; i++)
        if ((uint32_t)slots[i] && (uint32_t)(slots[i] >> 32) > latest)
            latest = (uint32_t)(slots[i] >> 32);
    return latest;
}

// When the minute ends that is looked at: now in a process that runs, else when its ledger knew the
// last of it.
static uint64_t end_of_minute_ns(struct reader *reader) {
    const struct report_process *process = reader->process;
    struct procfs_status status;
    if (process->has_snapshot)
        return reader->header.snapshot_ns;
    bool same_boot = strcmp(gather_boot_id(reader->report), process->boot_id) == 0;
    if (same_boot && procfs_status((pid_t)process->pid, &status) == 0 &&
        status.start_ticks == process->start_time_ticks)
        return monotonic_ns();
    uint32_t latest = 0;
    for (uint64_t id = 1; id < reader->counts[LEDGER_STACKS]; id++)
        latest = latest_slot(reader->stacks[id].recent_active, latest);
    return ((uint64_t)latest + 1) * LEDGER_RECENT_SLOT_S * 1000000000u - 1;
}

// The events of the 60 s before that: TIME_WAIT lasts so long (TCP_TIMEWAIT_LEN in
// include/net/tcp.h). A slot that began before counts as a whole.
static uint64_t count_recent(const struct reader *reader, const uint64_t *slots,
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

static void add_site(struct reader *reader, uint32_t id) {
    const struct ledger_stack *stack = &reader->stacks[id];
    double per_second;
    struct report_stack *where = stack_of(reader, id);
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
    site->recent_active += count_recent(reader, stack->recent_active, &per_second);
    site->recent_per_second += per_second;
    if (stack->close_stack)
        site->close_stack = stack_of(reader, stack->close_stack);
}

static void add_destination(struct reader *reader, const struct ledger_destination *from) {
    enum {
        VALID = 2 // ledger_destination.state
    };
    if (from->state != VALID || from->stack == LEDGER_NO_STACK)
        return;
    struct report_stack *stack = stack_of(reader, from->stack);
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

static void add_sites(struct reader *reader) {
    reader->minute_end_ns = end_of_minute_ns(reader);
    for (uint64_t id = 1; id < reader->counts[LEDGER_STACKS]; id++)
        if (reader->stacks[id].opened || reader->stacks[id].closed)
            add_site(reader, (uint32_t)id);
    for (uint64_t i = 0; i < reader->counts[LEDGER_DESTINATIONS]; i++)
        add_destination(reader, &reader->destinations[i]);
}

// ------------------------------------------------------------------------------------------------

static void free_reader(struct reader *reader) {
    free(reader->fds);
    free(reader->stacks);
    free(reader->frames);
    free(reader->modules);
    free(reader->strings);
    free(reader->destinations);
    free(reader->known_modules);
    free(reader->known_stacks);
    free(reader->first_fd);
    free(reader->next_fd);
}

int ledger_reader_add(struct report *report, const struct ledger_source *source) {
    struct reader reader = {.report = report, .source = source};
    if (source->bytes < LEDGER_HEADER_BYTES) {
        error_say("%s: not a ledger: %llu bytes are too few for one", source->label,
                  (unsigned long long)source->bytes);
        return -EBADMSG;
    }
    int error = source->read(source->context, 0, &reader.header, sizeof reader.header);
    if (error < 0) {
        error_say("%s: cannot read the ledger: %s", source->label, strerror(-error));
        return error;
    }
    error = check_header(&reader.header, source->label);
    if (error < 0)
        return error;
    add_process(&reader);
    for (int id = 0; id < LEDGER_REGIONS; id++)
        measure(&reader, (enum ledger_region_id)id);
    reader.fds = read_region(&reader, LEDGER_FDS, 0);
    reader.stacks = read_region(&reader, LEDGER_STACKS, 0);
    reader.frames = read_region(&reader, LEDGER_FRAMES, 0);
    reader.modules = read_region(&reader, LEDGER_MODULES, 0);
    reader.strings = read_region(&reader, LEDGER_STRINGS, 1);
    reader.destinations = read_region(&reader, LEDGER_DESTINATIONS, 0);
    reader.known_modules = must_allocate(reader.counts[LEDGER_MODULES], sizeof(void *));
    reader.known_stacks = must_allocate(reader.counts[LEDGER_STACKS], sizeof(void *));
    index_fds(&reader);
    add_sockets(&reader);
    add_sites(&reader);
    free_reader(&reader);
    return 0;
}
