// Writes what the fuzzers start from: DIR/ledger/NAME and DIR/json/NAME. Made by each build, so
// that they are never of an older format than the reader.
#include "ledger_image.h"
#include "model.h"
#include "report/verdict.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static struct ledger_image image;
static const char *directory;

static void write_file(const char *kind, const char *name, const void *bytes, size_t len) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, kind);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", directory, kind, name);
    FILE *out = fopen(path, "w");
    if (!out || fwrite(bytes, 1, len, out) != len || fclose(out) != 0) {
        fprintf(stderr, "make_seeds: %s: %s\n", path, strerror(errno));
        exit(1);
    }
}

static void write_json(const char *name) {
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    options.sites = true;
    struct render_options render = RENDER_OPTIONS_DEFAULT;
    char *text = NULL;
    size_t len = 0;
    FILE *memory = open_memstream(&text, &len);
    render.show_all = render.sites = true;
    if (report_add_ledger_memory(report, &image, sizeof image, name) < 0 ||
        report_finish(report, &options) < 0 ||
        report_write(report, FORMAT_JSON, memory, &render) < 0)
        exit(1);
    fclose(memory);
    json_t *document = json_loadb(text, len, 0, NULL);
    free(text);
    text = json_dumps(document, JSON_COMPACT);
    write_file("json", name, text, strlen(text));
    json_decref(document);
    free(text);
    report_free(report);
}

// Without what no reader looks at and nobody uses: smaller is faster. The regions that stay are
// moved together behind the header.
static void write_ledger(const char *name) {
    static const size_t element[LEDGER_REGIONS] = {
        4, sizeof(struct ledger_record), 0, sizeof(struct ledger_stack),
        8, sizeof(struct ledger_module), 1, sizeof(struct ledger_destination)};
    static char file[sizeof image];
    struct ledger_header header = image.header;
    size_t at = LEDGER_HEADER_BYTES;
    for (int id = 0; id < LEDGER_REGIONS; id++) {
        struct ledger_region *region = &header.regions[id];
        size_t bytes = (size_t)region->used * element[id];
        memcpy(file + at, (const char *)&image + region->offset, bytes);
        region->offset = at;
        region->reserved_bytes = region->committed_bytes = bytes;
        if (element[id] == 0)
            region->used = 0;
        at += (bytes + 7) & ~(size_t)7;
    }
    memset(file + sizeof header, 0, LEDGER_HEADER_BYTES - sizeof header);
    memcpy(file, &header, sizeof header);
    write_file("ledger", name, file, at);
}

static void write_both(const char *name) {
    write_ledger(name);
    write_json(name);
}

// --- the seeds ----------------------------------------------------------------------------------

static void start(void) {
    image_init(&image, 100);
}

static void nothing(void) {
    start();
    write_both("nothing");
}

static void leaks(void) {
    start();
    uint32_t birth = image_stack(&image, 0x1000, 4), eof = image_stack(&image, 0x2000, 3);
    for (int i = 0; i < 2; i++)
        image_ignore_eof(image_socket(&image, birth), eof);
    image_socket(&image, eof);
    image.fds[9] = 1; // a dup
    image.header.regions[LEDGER_FDS].used = 10;
    write_both("leaks");
}

static void every_verdict(void) {
    start();
    uint32_t stack = image_stack(&image, 0x1000, 2);
    for (int verdict = VERDICT_EOF_IGNORED; verdict < VERDICT_COUNT; verdict++) {
        struct ledger_record *record = image_socket(&image, stack);
        record->snapshot.verdict = (uint8_t)verdict;
        record->snapshot.state = STATE_CLOSE_WAIT;
        record->snapshot.recv_queue_bytes = 5;
        record->snapshot.properties_known = 0x1f;
        record->snapshot.cause = (uint8_t)(verdict % CAUSE_COUNT);
        record->error = verdict == VERDICT_RESET_UNCLOSED ? ECONNRESET : 0;
        record->error_stack = stack;
        record->shutdown_ns = verdict == VERDICT_SHUTDOWN_UNCLOSED ? 1 : 0;
        record->shutdown_stack = stack;
    }
    write_both("every_verdict");
}

static void killed(void) {
    start();
    uint32_t stack = image_stack(&image, 0x1000, 2);
    image_ignore_eof(image_socket(&image, stack), stack);
    image_socket(&image, stack)->flags = RECORD_SHUT_RD | RECORD_SHUT_WR | RECORD_FIN_FIRST;
    image_kill(&image);
    write_both("killed");
}

static void ipv6_and_unix(void) {
    start();
    uint32_t stack = image_stack(&image, 0x1000, 1);
    struct ledger_record *record = image_socket(&image, stack);
    image_ignore_eof(record, stack);
    record->family = AF_INET6;
    record->peer.family = record->local.family = ADDRESS_INET6;
    record->peer.scope_id = 2;
    image_ignore_eof(image_socket(&image, 0), 0);
    image.records[2].family = AF_UNIX;
    image.records[2].provenance = PROVENANCE_RECEIVED;
    image.records[2].peer.family = image.records[2].local.family = ADDRESS_NONE;
    image.header.ended = ENDED_SIGNAL;
    image.header.end_status = 128 + 15;
    write_both("ipv6_and_unix");
}

// How sockets of a stack ended, and towards whom.
static void statistics(void) {
    start();
    uint32_t id = image_stack(&image, 0x1000, 2);
    struct ledger_stack *stack = &image.stacks[id];
    image_socket(&image, id);
    stack->opened = 100;
    stack->closed = 90;
    stack->closed_active = stack->closed_passive = 30;
    stack->closed_reset = stack->closed_connecting = stack->closed_shared = 10;
    stack->gave_up = 3;
    stack->gave_up_ms = 90000;
    stack->lifetime_max_ms = 31000;
    stack->close_stack = id;
    stack->lifetimes[29] = 88;
    stack->recent_active[0] = 5;
    image.destinations[1] = (struct ledger_destination){
        .peer = {.family = ADDRESS_INET, .port = 80, .ip = {10, 0, 0, 7}},
        .stack = id,
        .state = 2,
        .closed_active = 30,
        .recent_active = {5}};
    image.header.regions[LEDGER_DESTINATIONS].used = 4;
    image.header.counters.closed = 90;
    image.header.counters.exhausted[EXHAUSTED_PROCESS_FDS] = 2;
    write_both("statistics");
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: make_seeds DIRECTORY\n", stderr);
        return 2;
    }
    directory = argv[1];
    mkdir(directory, 0777);
    nothing();
    leaks();
    every_verdict();
    killed();
    ipv6_and_unix();
    statistics();
    return 0;
}
