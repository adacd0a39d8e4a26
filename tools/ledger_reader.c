#include "ledger_reader.h"
#include "base/options.h"
#include "errors.h"
#include "ledger_reading.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORDS_AT_ONCE = 1024,
    NOTE_BYTES = 160
};

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

void ledger_reading_damaged(struct ledger_reading *reader, const char *what) {
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
static void measure(struct ledger_reading *reader, enum ledger_region_id id) {
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
        ledger_reading_damaged(reader, text);
        reader->report->is_incomplete |= id == LEDGER_RECORDS;
    }
}

static void *read_region(struct ledger_reading *reader, enum ledger_region_id id,
                         size_t extra_bytes) {
    uint64_t bytes = reader->counts[id] * layout[id].element_bytes;
    void *memory = must_allocate(1, bytes + extra_bytes);
    if (bytes && reader->source->read(reader->source->context, reader->header.regions[id].offset,
                                      memory, bytes) < 0) {
        char text[NOTE_BYTES];
        snprintf(text, sizeof text, "its %s cannot be read", layout[id].name);
        ledger_reading_damaged(reader, text);
        reader->report->is_incomplete |= id == LEDGER_RECORDS;
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

// A fork, an exec and another boot each begin a ledger of their own.
static const char *ledger_name(struct report *report, const struct ledger_header *header) {
    char text[LEDGER_EXE_BYTES];
    snprintf(text, sizeof text, "%" PRIu32 "-%" PRIu64 "-%" PRIu64 "-%.*s", header->pid,
             header->start_time_ticks, header->created_ns, (int)sizeof header->boot_id,
             header->boot_id);
    return arena_name(&report->arena, text);
}

static void add_process(struct ledger_reading *reader) {
    const struct ledger_header *header = &reader->header;
    struct report_process *process = gather_process(reader->report);
    reader->process = process;
    process->pid = header->pid;
    process->parent_pid = process->first_parent_pid = header->parent_pid;
    process->start_time_ticks = header->start_time_ticks;
    process->created_ns = header->created_ns;
    if (header->created_epoch_ns > header->created_ns)
        process->epoch_offset_ns = header->created_epoch_ns - header->created_ns;
    process->ledger = ledger_name(reader->report, header);
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
    process->gone_ns = header->gone_ns > header->created_ns ? header->gone_ns : 0;
    process->process = header->process;
    process->counters = header->counters;
    if (header->file_cut_ns)
        report_process_note(reader->report, process,
                            "its ledger's file was truncated, or its disk failed: what was known "
                            "of the sockets before is lost");
    process->has_rules = true;
    process->unix_sockets = header->families != FAMILIES_INET;
    process->inet_sockets = header->families != FAMILIES_UNIX;
    process->grace_ms = header->grace_ms;
    process->exit_grace_ms = header->exit_grace_ms;
}

// --- sockets ------------------------------------------------------------------------------------

static void index_fds(struct ledger_reading *reader) {
    uint64_t records = reader->counts[LEDGER_RECORDS], fds = reader->counts[LEDGER_FDS];
    reader->first_fd = must_allocate(records, sizeof *reader->first_fd);
    reader->next_fd = must_allocate(fds, sizeof *reader->next_fd);
    for (uint64_t fd = fds; fd-- > 0;) { // from the end, so that the lists rise
        uint32_t number = reader->fds[fd];
        if (number == 0)
            continue;
        if (number >= records) {
            ledger_reading_damaged(reader, "a file descriptor has an unknown record");
            continue;
        }
        reader->next_fd[fd] = reader->first_fd[number];
        reader->first_fd[number] = (uint32_t)fd + 1;
    }
}

static void take_fds(struct ledger_reading *reader, struct report_socket *socket, uint32_t number) {
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

static struct report_socket *new_socket(struct ledger_reading *reader) {
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

static void add_socket(struct ledger_reading *reader, const struct ledger_record *record,
                       uint32_t number) {
    struct report_socket *socket = new_socket(reader);
    socket->record = *record;
    socket->number = number;
    complete(&socket->record);
    take_fds(reader, socket, number);
    socket->process = reader->process;
    socket->birth = ledger_reading_stack(reader, record->birth_stack);
    socket->end_of_stream = record->eof_ns ? ledger_reading_stack(reader, record->eof_stack) : NULL;
    socket->error = record->error ? ledger_reading_stack(reader, record->error_stack) : NULL;
    socket->shutdown =
        record->shutdown_ns ? ledger_reading_stack(reader, record->shutdown_stack) : NULL;
}

static void add_sockets(struct ledger_reading *reader) {
    uint64_t count = reader->counts[LEDGER_RECORDS];
    uint64_t offset = reader->header.regions[LEDGER_RECORDS].offset;
    struct ledger_record *records = must_allocate(RECORDS_AT_ONCE, sizeof *records);
    for (uint64_t first = 0; first < count; first += RECORDS_AT_ONCE) {
        uint64_t some = count - first < RECORDS_AT_ONCE ? count - first : RECORDS_AT_ONCE;
        if (reader->source->read(reader->source->context, offset + first * sizeof *records, records,
                                 some * sizeof *records) < 0) {
            ledger_reading_damaged(reader, "some of its records cannot be read");
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

// ------------------------------------------------------------------------------------------------

static void free_reader(struct ledger_reading *reader) {
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
    struct ledger_reading reader = {.report = report, .source = source};
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
    if (gather_is_repeated(report, ledger_name(report, &reader.header)))
        return 0;
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
    ledger_reading_sites(&reader);
    free_reader(&reader);
    return 0;
}
