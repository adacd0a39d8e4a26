// The import table of one loaded library: which function a call of its leads to.
//
// Changes that library's calls and nobody else's. Not signal-safe; called while a library is not
// used yet.
#ifndef SOCKLEAK_TRACK_IMPORTS_H
#define SOCKLEAK_TRACK_IMPORTS_H

#include <link.h>
#include <stdbool.h>
#include <stddef.h>

// Lets the library's import `name`, where it has one, lead to `function`. Returns 0, or -errno
// where the table could not be written.
int imports_redirect(const struct link_map *map, const char *name, void *function);

// True where the library has thread-local variables, of at most `room_bytes`, that all start as
// zero.
bool imports_tls_is_zero(const struct link_map *map, size_t room_bytes);

#endif
