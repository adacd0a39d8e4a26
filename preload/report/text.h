// The report as text. Shared with tools/: in the process it writes through a raw buffer and names
// functions from the files' symbol tables, in the tool through a FILE and by libdw. Both are given.
//
// No malloc, no stdio, no lock. Foreign text is made harmless: only printable ASCII comes out.
#ifndef SOCKLEAK_REPORT_TEXT_H
#define SOCKLEAK_REPORT_TEXT_H

#include "base/format.h"
#include "ledger/ledger_format.h"
#include "report/verdict.h"

enum {
    TEXT_LINE_BYTES = 1024
};

// Where the lines go.
struct text_sink {
    // One whole line, newline included.
    void (*write_line)(void *context, const char *line, size_t len_bytes);
    void *context;
    uint32_t pid;               // for the ==PID== at the front
    char line[TEXT_LINE_BYTES]; // where it is put together
};

// What is known of a frame. Pointers are NULL where it is not.
struct text_frame {
    const char *function;
    uint64_t function_offset; // bytes behind its start
    const char *module;       // path
    uint64_t module_offset;
    const char *file; // source
    uint32_t line;    // 0 unknown
    bool hidden;      // the C library's start-up: not shown
};

// Fills in frame `index` of a stack; returns false behind the last. Called with rising indexes.
typedef bool text_frame_function(void *context, uint32_t stack, uint32_t index,
                                 struct text_frame *out);

struct text_namer {
    text_frame_function *frame;
    void *context;
};

struct text_head {
    uint64_t close_wait, dead; // sockets
    uint64_t findings;
    const char *when; // "at exit of", "at SIGUSR1 in"
    const char *program;
};

// "3 sockets left in CLOSE_WAIT (2 findings) at exit of ./server", and a blank line.
void text_headline(struct text_sink *sink, const struct text_head *head);

// A finding: what is wrong, its count, and both stacks. `sample` is any of its records.
void text_finding(struct text_sink *sink, enum verdict verdict, uint64_t count,
                  const struct ledger_record *sample, const struct text_namer *namer);

// A birth stack that is spoken of in front of the findings, and a blank line.
void text_site(struct text_sink *sink, uint32_t stack, const struct text_namer *namer);

// Why, by cause_sentence(); nothing for "".
void text_cause(struct text_sink *sink, const char *sentence);

// One socket of it. `fds` has record->fd_count numbers, or is NULL: then first_fd alone is shown.
void text_socket(struct text_sink *sink, const struct ledger_record *record, const int32_t *fds);

// "... and 2 more", for sockets that are not listed; nothing for 0.
void text_more(struct text_sink *sink, uint64_t count);

struct text_totals {
    uint64_t close_wait, dead, open;
    uint64_t not_tracked;
    uint64_t inherited; // open, and another process's to close
};

void text_summary(struct text_sink *sink, const struct text_totals *totals,
                  const struct ledger_counters *counters);

// Any other line of ours.
void text_note(struct text_sink *sink, const char *note);

// An address as 127.0.0.1:80 or [::1]:80; "?" where it is not known.
void text_address(struct text_buffer *out, const struct ledger_address *address);

// Milliseconds for people: "35 ms", "1.4 s", "12 min".
void text_age(struct text_buffer *out, uint64_t ms);

#endif
