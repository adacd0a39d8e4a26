// The subcommands, one file each (cmd_*.c), and their help. How they read options: options.h.
#ifndef SOCKLEAK_TOOLS_COMMANDS_H
#define SOCKLEAK_TOOLS_COMMANDS_H

#include <stdbool.h>

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

#endif
