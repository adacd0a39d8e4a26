// The subcommands, one file each (cmd_*.c), and what they share: help and the reading of options.
#ifndef SOCKLEAK_TOOLS_COMMANDS_H
#define SOCKLEAK_TOOLS_COMMANDS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct command {
    const char *name;
    const char *usage;   // behind the name: "[options] PID"
    const char *summary; // one line, lower case
    const char *about;   // paragraphs, broken at 80 columns, ending in a newline
    const char *options; // its own, a line each
    bool has_format_options;
    const char *examples;               // a line each, or NULL
    int (*main)(int argc, char **argv); // argv[0] is its name; returns an exit status
};

extern const struct command command_run, command_report, command_dump, command_reap, command_scan;

// Prints its help on stdout. Returns STATUS_OK.
int command_help(const struct command *command);

// Ends the program's talk on stdout: STATUS_FAILED, with a message, where it could not all be
// written, else `status`.
int command_finish_output(int status);

// --- options ------------------------------------------------------------------------------------
// Call getopt_long with opterr = 0 and short options that begin with ":" ("+:" stops at the first
// word that is none).

// For '?' and ':' of getopt_long: says what is wrong, with the near option where the user
// mistyped one. Returns STATUS_USAGE.
int option_error(const char *command, int result, char **argv, const struct option *options);

// A number from min to max. Returns false where `text` is none.
bool option_number(const char *text, uint64_t min, uint64_t max, uint64_t *out);

// The one process id that stands behind the options. Returns STATUS_OK, or STATUS_USAGE having said
// why.
int option_pid(const char *command, int argc, char **argv, pid_t *out);

// A time as 500ms, 30s, 5m, 2h, 1d, or seconds without a unit ("1.5"), in milliseconds.
bool option_time(const char *text, uint64_t *out_ms);

#endif
