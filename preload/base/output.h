// Where reports go: stderr, or the file of log_path. Never a socket that the program opened, never
// an existing file, never for long: a reader that does not read cannot hang the program.
//
// While an output is open its thread has all signals blocked, so that a SIGPIPE, SIGXFSZ or SIGTTOU
// of ours cannot reach the program; what we raised is taken back. Raw system calls, no malloc.
#ifndef SOCKLEAK_BASE_OUTPUT_H
#define SOCKLEAK_BASE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
    OUTPUT_BUFFER_BYTES = 4096
};

struct output {
    int fd;           // -1: nowhere
    bool is_file;     // opened by us
    bool plain_write; // no RWF_NOWAIT: not needed, or the kernel has none for this file
    bool failed;      // something was lost
    uint64_t blocked_signals, pending_signals;
    struct timespec patience; // that is left
    size_t len_bytes;
    char buffer[OUTPUT_BUFFER_BYTES];
};

// Remembers what stderr is when the program starts, or after it has put something else there on
// purpose (dup2, freopen, daemon). A report goes to fd 2 only while that is still the same file: a
// program that closed stderr may have a database there by now.
void output_remember_stderr(void);

// Opens the log at `log_path` (not ""), or stderr. %p, %n and %t are replaced (%% is %). The log is
// created O_EXCL and O_NOFOLLOW, 0600; a later report of the same process,
// or of a child that it forked, is appended to it. Where
// that fails, `problem` (of problem_bytes) says why and stderr is used. Always close what was
// opened.
void output_open(struct output *out, const char *log_path, const char *exe, char *problem,
                 size_t problem_bytes);

// Whole lines. Waits at most 2 seconds in all for a reader that is behind, then drops the rest.
void output_write(struct output *out, const char *text, size_t len_bytes);

// Writes what is left. Returns 0, or -errno where something was lost.
int output_close(struct output *out);

#endif
