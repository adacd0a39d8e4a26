// One voice for all subcommands. Messages go to stderr as "sockleak: ...": lower case, no full
// stop; they name the file, the value and what to do. Control characters of foreign text (a file's
// name) come out as `?`. Not for signal handlers.
#ifndef SOCKLEAK_TOOLS_ERRORS_H
#define SOCKLEAK_TOOLS_ERRORS_H

#include <stddef.h>

// Exit statuses, see sockleak(1).
enum exit_status {
    STATUS_OK = 0,
    STATUS_FAILED = 1, // could not do what was asked
    STATUS_USAGE = 2,
    STATUS_LEAK = 23,
    STATUS_CANNOT_RUN = 126,
    STATUS_NOT_FOUND = 127,
    STATUS_SIGNAL = 128, // plus the signal's number
};

// "sockleak: MESSAGE"
void error_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// "sockleak: warning: MESSAGE": the work goes on.
void error_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

// "sockleak COMMAND: MESSAGE (see 'sockleak help COMMAND')". `command` may be NULL: then no command
// is named. Returns STATUS_USAGE, for `return error_usage(...)`.
int error_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Memory, or the end of the program with a message: a tool has nothing better to do without.
// Zeroed. `count` times `bytes` may overflow: that is no memory, too. Free with free().
void *must_allocate(size_t count, size_t bytes);
void *must_reallocate(void *old, size_t count, size_t bytes); // new part not zeroed
// Room for one more behind `count`, of a list that has only ever grown by this.
void *must_grow(void *list, size_t count, size_t bytes);
char *must_copy(const char *string);

#endif
