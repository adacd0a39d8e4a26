// Names of functions, which a hostile program has in its symbol table: into readable ones, in
// bounded time and memory.
#include "demangle.h"
#include "fuzz.h"
#include <stdlib.h>
#include <string.h>

enum {
    READABLE_MAX_BYTES = 64 << 10
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *name = malloc(size + 1); // of this size, so that a read behind it is seen
    memcpy(name, data, size);
    name[size] = '\0';
    char *readable = demangle(name);
    size_t len = strlen(readable);
    fuzz_claim(len <= READABLE_MAX_BYTES || len <= strlen(name), "a readable name is bounded");
    free(readable);
    free(name);
    return 0;
}
