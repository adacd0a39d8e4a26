// A ledger of any bytes: through reader, judge, grouping, symbols and all formats.
//
// The mutator knows the layout (ledger_format.h): it turns single fields of single elements, and
// mostly puts the header's magic, version and sizes right again, since what is refused there is
// soon known.
#include "fuzz.h"
#include "ledger/ledger_format.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t element_bytes[LEDGER_REGIONS] = {
    [LEDGER_FDS] = sizeof(uint32_t),
    [LEDGER_RECORDS] = sizeof(struct ledger_record),
    [LEDGER_BUCKETS] = sizeof(uint32_t),
    [LEDGER_STACKS] = sizeof(struct ledger_stack),
    [LEDGER_FRAMES] = sizeof(uint64_t),
    [LEDGER_MODULES] = sizeof(struct ledger_module),
    [LEDGER_STRINGS] = 1,
    [LEDGER_DESTINATIONS] = sizeof(struct ledger_destination),
};

// --- reading ------------------------------------------------------------------------------------

static void finish_and_write(struct report *report, const uint8_t *data, size_t size) {
    struct report_options options = fuzz_report_options();
    fuzz_claim(report_finish(report, &options) == 0, "what was read can be finished");
    fuzz_write(report, data, size);
}

static void read_it(const uint8_t *data, size_t size) {
    struct report *report = report_new();
    if (report_add_ledger_memory(report, data, size, "fuzz") == 0)
        finish_and_write(report, data, size);
    report_free(report);
}

// Of a live process: it changes between two reads, and ends in the middle of them.
struct live {
    const uint8_t *data;
    unsigned reads, last; // the read that fails; 0 for none
    uint8_t flip;
};

static int read_live(void *context, uint64_t offset, void *out, size_t len_bytes) {
    struct live *live = context;
    if (++live->reads == live->last)
        return -ESRCH;
    memcpy(out, live->data + offset, len_bytes);
    if (live->reads > 1 && live->flip && len_bytes)
        ((uint8_t *)out)[(live->reads * 2654435761u) % len_bytes] ^= live->flip;
    return 0;
}

static void read_it_live(const uint8_t *data, size_t size, uint8_t how) {
    struct report *report = report_new();
    struct live live = {.data = data, .last = how & 7, .flip = (uint8_t)(how >> 3)};
    struct ledger_source source = {read_live, &live, size, "fuzz"};
    if (report_add_ledger_source(report, &source) == 0)
        finish_and_write(report, data, size);
    report_free(report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_it(data, size);
    // The front of a name that is not read is as good as any for a choice.
    uint8_t how = size > LEDGER_HEADER_BYTES ? data[LEDGER_HEADER_BYTES - 1] : 0;
    if (how)
        read_it_live(data, size, how);
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

static void put_right(struct ledger_header *header) {
    memcpy(header->magic, LEDGER_MAGIC, sizeof header->magic);
    header->version = LEDGER_VERSION;
    header->header_bytes = LEDGER_HEADER_BYTES;
    header->record_bytes = sizeof(struct ledger_record);
    header->stack_bytes = sizeof(struct ledger_stack);
    header->module_bytes = sizeof(struct ledger_module);
    header->destination_bytes = sizeof(struct ledger_destination);
}

static void change_number(uint8_t *at, size_t bytes) {
    static const uint64_t edges[] = {0,          1,          2,         0x7f,      0xff,
                                     0x7fff,     0xffff,     1u << 20,  INT32_MAX, UINT32_MAX,
                                     1ull << 48, 1ull << 62, INT64_MAX, UINT64_MAX};
    uint64_t number = 0;
    memcpy(&number, at, bytes);
    switch (some(4)) {
    case 0:
        number = edges[some(sizeof edges / sizeof *edges)];
        break;
    case 1:
        number += some(9) - 4u;
        break;
    case 2:
        number ^= 1ull << some(8 * (unsigned)bytes);
        break;
    default:
        number = some(64);
    }
    memcpy(at, &number, bytes);
}

// A field of an element that is in use, on its own alignment.
static void change_element(uint8_t *data, size_t size, enum ledger_region_id id) {
    const struct ledger_header *header = (const struct ledger_header *)data;
    const struct ledger_region *region = &header->regions[id];
    uint64_t bytes = region->used < size ? region->used * element_bytes[id] : size;
    if (region->offset >= size || bytes == 0)
        return;
    if (bytes > size - region->offset)
        bytes = size - region->offset;
    size_t width = id == LEDGER_STRINGS ? 1 : 1u << some(4);
    size_t at = (size_t)region->offset + some((unsigned)(bytes / width) + 1) * width;
    if (at + width <= region->offset + bytes)
        change_number(data + at, width);
}

static void change_header(uint8_t *data) {
    struct ledger_header *header = (struct ledger_header *)data;
    switch (some(4)) {
    case 0: {
        uint64_t *field = (uint64_t *)&header->regions[some(LEDGER_REGIONS)];
        change_number((uint8_t *)&field[some(4)], 8);
        break;
    }
    case 1:
        change_number(data + 4 * some(offsetof(struct ledger_header, regions) / 4), 4);
        break;
    case 2: {
        size_t at = offsetof(struct ledger_header, counters);
        at += 4 * some((unsigned)(offsetof(struct ledger_header, exe) - at) / 4);
        change_number(data + at, 4);
        break;
    }
    default:
        data[offsetof(struct ledger_header, exe) + some(LEDGER_EXE_BYTES + LEDGER_CMDLINE_BYTES)] =
            (uint8_t)some(256);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    state = seed;
    if (size < LEDGER_HEADER_BYTES || some(16) == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    for (unsigned changes = 1 + some(4); changes > 0; changes--) {
        enum ledger_region_id id = (enum ledger_region_id)some(LEDGER_REGIONS + 3);
        if (id < LEDGER_REGIONS)
            change_element(data, size, id);
        else if (some(8))
            change_header(data);
        else
            data[LEDGER_HEADER_BYTES - 1] = (uint8_t)some(256); // see LLVMFuzzerTestOneInput
    }
    if (some(64) == 0)
        size = LEDGER_HEADER_BYTES + some((unsigned)(size - LEDGER_HEADER_BYTES) + 1);
    if (some(16))
        put_right((struct ledger_header *)data);
    return size;
}
