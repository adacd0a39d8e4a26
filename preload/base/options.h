// SOCKLEAK_OPTIONS=name=value:name=value, from one table (options.c). Shared with tools/.
#ifndef SOCKLEAK_BASE_OPTIONS_H
#define SOCKLEAK_BASE_OPTIONS_H

#include "base/format.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    OPTION_TEXT_BYTES = 256,
    OPTION_PROBLEMS_BYTES = 1024,
    OPTION_STACK_DEPTH_MAX = 128 // as LEDGER_STACK_DEPTH_MAX: track/stacks.c sees to that
};

enum option_families {
    FAMILIES_INET,
    FAMILIES_UNIX,
    FAMILIES_ALL
};
enum option_show {
    SHOW_LEAKS,
    SHOW_ALL
};

struct options {
    uint64_t exhaustion_interval; // seconds between two reports of one kind
    uint64_t exitcode;            // status of a process that leaked; 0: the program's own
    uint64_t exit_grace_ms;       // see libsockleak(7)
    uint64_t families;            // enum option_families
    uint64_t grace_ms;            // for reports of a running program
    uint64_t help;                // 1: print the table at start
    uint64_t leak_after;          // seconds; 0 off
    char ledger_dir[OPTION_TEXT_BYTES];
    char log_path[OPTION_TEXT_BYTES];
    uint64_t max_close_wait, max_open; // sockets; 0 off
    uint64_t max_sockets;              // listed per finding
    uint64_t show;                     // enum option_show
    uint64_t signal;                   // number; 0 for none
    uint64_t stack_depth;              // frames
    uint64_t verbosity;
    // One line for each entry that was not understood, each ending in a newline; "" for none.
    char problems[OPTION_PROBLEMS_BYTES];
};

// In force: the defaults until options_parse() has run.
extern struct options options;

// Parses `text` (NULL for none) over the defaults. An entry with an unknown name or a bad value is
// noted in `problems` and its default stands, also where an entry before it set another. A value
// may be quoted ('...' or "...") to hold colons. Not thread-safe: called when the process begins.
// No malloc.
void options_parse(const char *text);

// Takes one value as SOCKLEAK_OPTIONS would. False where it would not: why is added to `mistake`
// (" is not 0 to 255"), nothing where no option has that name. For the command.
bool options_take(const char *name, const char *value, struct text_buffer *mistake);

// The names, from index 0; NULL behind the last.
const char *options_name(int index);

// Writes one help line for each option: name, range, default, meaning. `index` from 0; returns
// false behind the last.
bool options_help(int index, struct text_buffer *out);

#endif
