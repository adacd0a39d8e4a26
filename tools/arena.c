#include "arena.h"
#include "errors.h"
#include "hash.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_BYTES = 64 << 10,
    ALIGNMENT = 16,
    NAMES_AT_FIRST = 256
};

struct arena_chunk {
    struct arena_chunk *next;
    size_t used_bytes, size_bytes;
    _Alignas(ALIGNMENT) char memory[];
};

struct arena_names {
    const char **slots; // open addressing, at most half full
    size_t mask, count;
};

static struct arena_chunk *new_chunk(struct arena *arena, size_t bytes) {
    size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    struct arena_chunk *chunk = must_allocate(1, sizeof *chunk + size);
    chunk->size_bytes = size;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    return chunk;
}

void *arena_take(struct arena *arena, size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total) || total > SIZE_MAX / 2)
        total = SIZE_MAX / 2; // more than there is: must_allocate() says so
    total = (total + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    struct arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->size_bytes - chunk->used_bytes < total)
        chunk = new_chunk(arena, total);
    void *taken = chunk->memory + chunk->used_bytes;
    chunk->used_bytes += total;
    return taken;
}

char *arena_copy(struct arena *arena, const char *bytes, size_t len_bytes) {
    char *copy = arena_take(arena, 1, len_bytes + 1);
    memcpy(copy, bytes, len_bytes);
    return copy;
}

static const char **slot_of(struct arena_names *names, const char *string) {
    for (size_t i = (size_t)hash_string(HASH_START, string);; i++) {
        const char **slot = &names->slots[i & names->mask];
        if (!*slot || strcmp(*slot, string) == 0)
            return slot;
    }
}

static void grow(struct arena_names *names) {
    struct arena_names old = *names;
    size_t size = names->slots ? 2 * (names->mask + 1) : NAMES_AT_FIRST;
    names->slots = must_allocate(size, sizeof *names->slots);
    names->mask = size - 1;
    for (size_t i = 0; old.slots && i <= old.mask; i++)
        if (old.slots[i])
            *slot_of(names, old.slots[i]) = old.slots[i];
    free(old.slots);
}

const char *arena_name(struct arena *arena, const char *string) {
    if (!string)
        return NULL;
    if (!arena->names)
        arena->names = must_allocate(1, sizeof *arena->names);
    struct arena_names *names = arena->names;
    if (!names->slots || 2 * names->count >= names->mask)
        grow(names);
    const char **slot = slot_of(names, string);
    if (!*slot) {
        *slot = arena_copy(arena, string, strlen(string));
        names->count++;
    }
    return *slot;
}

const char *arena_format(struct arena *arena, const char *format, ...) {
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    const char *kept = arena_name(arena, text ? text : "out of memory");
    free(text);
    return kept;
}

void arena_free(struct arena *arena) {
    if (arena->names)
        free(arena->names->slots);
    free(arena->names);
    for (struct arena_chunk *chunk = arena->chunks; chunk;) {
        struct arena_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    *arena = (struct arena){0};
}
