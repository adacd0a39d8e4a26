// FNV-1a, 64 bits: for tables, and for fingerprints that must be the same on every machine.
#ifndef SOCKLEAK_TOOLS_HASH_H
#define SOCKLEAK_TOOLS_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_START 0xcbf29ce484222325u

static inline uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t len_bytes) {
    const unsigned char *at = bytes;
    for (size_t i = 0; i < len_bytes; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash;
}

// With the final NUL, so that "ab" "c" and "a" "bc" differ. NULL counts as "".
static inline uint64_t hash_string(uint64_t hash, const char *string) {
    const char *text = string ? string : "";
    while (*text)
        hash = (hash ^ (unsigned char)*text++) * 0x100000001b3u;
    return hash * 0x100000001b3u;
}

static inline uint64_t hash_number(uint64_t hash, uint64_t number) {
    for (int i = 0; i < 8; i++)
        hash = (hash ^ (number >> 8 * i & 0xff)) * 0x100000001b3u;
    return hash;
}

#endif
