// Function names for addresses in files, from .symtab or, without one, .dynsym.
//
// Files are read, not mapped: a file that is truncated under a mapping raises SIGBUS. Everything
// read is bounds-checked. No malloc, no lock; an fd is open while a file is read. Signal-safe.
#ifndef SOCKLEAK_REPORT_SYMBOLS_H
#define SOCKLEAK_REPORT_SYMBOLS_H

#include "report/scratch.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    SYMBOLS_FILES = 64
};

struct symbol_table {
    const void *symbols; // of the ELF file; NULL where there are none to be had
    uint64_t count;
    const char *names;
    uint64_t names_bytes;
    bool loaded;
};

// The files of one ledger by module number, read as they are needed, into the report's scratch.
struct symbols {
    struct scratch *scratch;
    bool unreadable; // a file that may have names could not be read
    struct symbol_table tables[SYMBOLS_FILES];
};

// Reads `path` as module `number` the first time it is asked for; `build_id` (of build_id_bytes, 0:
// any) must be the file's, or it was replaced and tells nothing. Then names the function that
// covers `address`, as the file counts addresses. Returns NULL where there is no name.
const char *symbols_name(struct symbols *symbols, uint32_t number, const char *path,
                         const uint8_t *build_id, uint32_t build_id_bytes, uint64_t address,
                         uint64_t *offset);

#endif
