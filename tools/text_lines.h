// Lines of the text report to a stream: in colour where asked, and broken where they are longer
// than the terminal is wide.
#ifndef SOCKLEAK_TOOLS_TEXT_LINES_H
#define SOCKLEAK_TOOLS_TEXT_LINES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct text_lines {
    FILE *out;
    bool color;
    uint32_t width;    // columns; 0 any
    const char *style; // of the lines that follow, an escape sequence; NULL plain
    bool style_once;   // of the next line only
    bool is_after_gap; // the last line was empty
};

// One whole line with its ==PID== and newline: a text_sink's write_line(). `lines` is the
// structure.
void text_lines_write(void *lines, const char *line, size_t len_bytes);

// A line of printf(3)'s with ==PID== before it. What is not printable ASCII becomes `?`.
void text_lines_say(struct text_lines *lines, uint32_t pid, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// An empty line, unless one was just written.
void text_lines_gap(struct text_lines *lines, uint32_t pid);

// Columns for a text behind ==PID==; a large number where any will do.
uint32_t text_lines_room(const struct text_lines *lines, uint32_t pid);

#endif
