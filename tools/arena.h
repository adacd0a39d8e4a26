// Memory that lives as long as a report: handed out, never given back piece by piece.
#ifndef SOCKLEAK_TOOLS_ARENA_H
#define SOCKLEAK_TOOLS_ARENA_H

#include <stddef.h>

struct arena {
    struct arena_chunk *chunks; // the newest first
    struct arena_names *names;  // strings that are kept once
};

// All return memory, or end the program as must_allocate() does.
void *arena_take(struct arena *arena, size_t count, size_t bytes); // zeroed, 16-byte aligned
char *arena_copy(struct arena *arena, const char *bytes, size_t len_bytes); // NUL-terminated

// The one copy of this string: equal strings are equal pointers. NULL stays NULL.
const char *arena_name(struct arena *arena, const char *string);

// arena_name() of text made as by printf.
const char *arena_format(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void arena_free(struct arena *arena);

#endif
