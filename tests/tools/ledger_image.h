// A ledger made by hand, in memory: one process, some sockets, as the library would have left it.
// Written from ledger_format.h only, so that what the reader makes of it says something.
#ifndef SOCKLEAK_TESTS_LEDGER_IMAGE_H
#define SOCKLEAK_TESTS_LEDGER_IMAGE_H

#include "ledger/ledger_format.h"
#include <stddef.h>

enum {
    IMAGE_RECORDS = 21, // room, number 0 included
    IMAGE_FDS = 64,
    IMAGE_STACKS = 8,
    IMAGE_FRAMES = 64,
    IMAGE_MODULES = 4,
    IMAGE_STRINGS = 512,
    IMAGE_DESTINATIONS = 4
};

struct ledger_image {
    struct ledger_header header;
    char rest_of_page[LEDGER_HEADER_BYTES - sizeof(struct ledger_header)];
    uint32_t fds[IMAGE_FDS];
    struct ledger_record records[IMAGE_RECORDS];
    uint32_t buckets[LEDGER_BUCKET_COUNT];
    struct ledger_stack stacks[IMAGE_STACKS];
    uint64_t frames[IMAGE_FRAMES];
    struct ledger_module modules[IMAGE_MODULES];
    char strings[IMAGE_STRINGS];
    struct ledger_destination destinations[IMAGE_DESTINATIONS];
};

// A process of this pid that exited with status 0, with two modules ("/opt/server",
// "/lib/libc.so.6") and no sockets.
void image_init(struct ledger_image *image, uint32_t pid);

// Takes back the end: it died without a report.
void image_kill(struct ledger_image *image);

// A stack of `depth` frames in /opt/server at offset, offset + 16, ... Returns its id.
uint32_t image_stack(struct ledger_image *image, uint64_t offset, uint16_t depth);

// A TCP socket that accept4 made, on the next free fd (from 3), inode 1000 + fd. It has a snapshot:
// ESTABLISHED, verdict open. Change it as needed.
struct ledger_record *image_socket(struct ledger_image *image, uint32_t birth_stack);

// As a snapshot would find it after end of stream was read at `eof_stack` and not closed.
void image_ignore_eof(struct ledger_record *record, uint32_t eof_stack);

#endif
