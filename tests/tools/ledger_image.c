#include "ledger_image.h"
#include "report/verdict.h"
#include <string.h>
#include <sys/socket.h>

#define SECOND 1000000000ull

static void place(struct ledger_image *image, enum ledger_region_id id, const void *part,
                  size_t bytes, uint64_t used) {
    image->header.regions[id] = (struct ledger_region){
        .offset = (uint64_t)((const char *)part - (const char *)image),
        .reserved_bytes = bytes,
        .committed_bytes = bytes,
        .used = used,
    };
}

static uint32_t add_string(struct ledger_image *image, const char *text) {
    uint64_t *used = &image->header.regions[LEDGER_STRINGS].used;
    uint32_t offset = (uint32_t)*used;
    strcpy(image->strings + offset, text);
    *used += strlen(text) + 1;
    return offset;
}

static void add_module(struct ledger_image *image, const char *path, uint8_t build_id) {
    uint64_t number = image->header.regions[LEDGER_MODULES].used++;
    struct ledger_module *module = &image->modules[number];
    module->path = add_string(image, path);
    module->build_id_bytes = 20;
    memset(module->build_id, build_id, 20);
}

void image_init(struct ledger_image *image, uint32_t pid) {
    memset(image, 0, sizeof *image);
    struct ledger_header *header = &image->header;
    memcpy(header->magic, LEDGER_MAGIC, sizeof header->magic);
    header->version = LEDGER_VERSION;
    header->header_bytes = LEDGER_HEADER_BYTES;
    header->record_bytes = sizeof(struct ledger_record);
    header->stack_bytes = sizeof(struct ledger_stack);
    header->module_bytes = sizeof(struct ledger_module);
    header->destination_bytes = sizeof(struct ledger_destination);
    header->pid = pid;
    header->parent_pid = 1;
    header->process = 1;
    header->start_time_ticks = 77;
    header->created_ns = SECOND;
    header->ended = ENDED_EXIT;
    header->snapshot_ns = 10 * SECOND;
    strcpy(header->boot_id, "not-this-boot");
    strcpy(header->exe, "/opt/server");
    memcpy(header->cmdline, "server\0-v", 10);
    header->cmdline_bytes = 10;
    header->stack_depth = 32; // the library's defaults
    header->grace_ms = 1000;
    header->exit_grace_ms = 100;
    place(image, LEDGER_FDS, image->fds, sizeof image->fds, 0);
    place(image, LEDGER_RECORDS, image->records, sizeof image->records, 1);
    place(image, LEDGER_BUCKETS, image->buckets, sizeof image->buckets, 1);
    place(image, LEDGER_STACKS, image->stacks, sizeof image->stacks, 1);
    place(image, LEDGER_FRAMES, image->frames, sizeof image->frames, 1);
    place(image, LEDGER_MODULES, image->modules, sizeof image->modules, 1);
    place(image, LEDGER_STRINGS, image->strings, sizeof image->strings, 1);
    place(image, LEDGER_DESTINATIONS, image->destinations, sizeof image->destinations, 0);
    add_module(image, "/opt/server", 0xab);
    add_module(image, "/lib/libc.so.6", 0xcd);
}

void image_kill(struct ledger_image *image) {
    image->header.ended = ENDED_RUNNING;
    image->header.snapshot_ns = 0;
    for (int i = 0; i < IMAGE_RECORDS; i++)
        memset(&image->records[i].snapshot, 0, sizeof image->records[i].snapshot);
}

uint32_t image_stack(struct ledger_image *image, uint64_t offset, uint16_t depth) {
    uint32_t id = (uint32_t)image->header.regions[LEDGER_STACKS].used++;
    uint64_t *used = &image->header.regions[LEDGER_FRAMES].used;
    image->stacks[id] = (struct ledger_stack){.first_frame = (uint32_t)*used, .depth = depth};
    for (uint16_t i = 0; i < depth; i++)
        image->frames[(*used)++] = LEDGER_FRAME(1, offset + 16u * i);
    return id;
}

struct ledger_record *image_socket(struct ledger_image *image, uint32_t birth_stack) {
    uint32_t number = (uint32_t)image->header.regions[LEDGER_RECORDS].used++;
    uint32_t fd = number + 2;
    struct ledger_record *record = &image->records[number];
    image->fds[fd] = number;
    image->header.regions[LEDGER_FDS].used = fd + 1;
    image->header.counters.born++;
    *record = (struct ledger_record){
        .inode = 1000 + fd,
        .birth_ns = 2 * SECOND,
        .birth_stack = birth_stack,
        .birth_call = CALL_ACCEPT4,
        .birth_tid = 42,
        .provenance = PROVENANCE_CREATED,
        .holders = 1,
        .process = 1,
        .flags = RECORD_CONNECTED,
        .family = AF_INET,
        .type = SOCK_STREAM,
        .fd_count = 1,
        .first_fd = (int32_t)fd,
        .local = {.family = ADDRESS_INET, .port = 80, .ip = {127, 0, 0, 1}},
        .peer = {.family = ADDRESS_INET, .port = (uint16_t)(50000 + fd), .ip = {10, 0, 0, 7}},
        .snapshot = {.taken_ns = 10 * SECOND,
                     .state = STATE_ESTABLISHED,
                     .state_age_ms = 5000,
                     .verdict = VERDICT_OPEN,
                     .flags = SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO | SNAPSHOT_HAS_QUEUES},
    };
    return record;
}

void image_ignore_eof(struct ledger_record *record, uint32_t eof_stack) {
    record->eof_ns = 4 * SECOND;
    record->eof_stack = eof_stack;
    record->eof_call = CALL_RECV;
    record->eof_tid = 43;
    record->snapshot.state = STATE_CLOSE_WAIT;
    record->snapshot.verdict = VERDICT_EOF_IGNORED;
}
