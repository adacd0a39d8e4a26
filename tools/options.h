// The reading of options, for all subcommands alike. Call getopt_long with opterr = 0 and short
// options that begin with ":" ("+:" stops at the first word that is none).
//
// What returns int returns STATUS_OK, or STATUS_USAGE having said why; then *out is not set.
#ifndef SOCKLEAK_TOOLS_OPTIONS_H
#define SOCKLEAK_TOOLS_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// For '?' and ':' of getopt_long: says what is wrong, with the near option where the user
// mistyped one. Returns STATUS_USAGE.
int option_error(const char *command, int result, char **argv, const struct option *options);

// The one process id that stands behind the options.
int option_pid(const char *command, int argc, char **argv, pid_t *out);

// A number from min to max. Returns false where `text` is none, and says nothing.
bool option_number(const char *text, uint64_t min, uint64_t max, uint64_t *out);

// The value of --OPTION: a number. `what` it is goes into the message: "a port number".
int option_accept_number(const char *command, const char *option, const char *argument,
                         const char *what, uint64_t min, uint64_t max, uint64_t *out);

// A time as 500ms, 30s, 5m, 2h, 1d, or seconds without a unit ("1.5"), in milliseconds.
int option_accept_time(const char *command, const char *option, const char *argument,
                       uint64_t *out_ms);

// The same for --watch[=TIME], which has a value of its own where `argument` is NULL.
int option_accept_watch(const char *command, const char *argument, uint64_t *out_ms);

// A name, and not an empty one. `what` it is goes into the message: "a file name".
int option_accept_name(const char *command, const char *option, const char *argument,
                       const char *what, const char **out);

// One of `words`, which NULL ends: its index.
int option_accept_word(const char *command, const char *option, const char *argument,
                       const char *const *words, unsigned *out);

#endif
