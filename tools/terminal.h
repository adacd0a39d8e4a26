// The terminal that text goes to, where it does: its width, whether it shows colour, and where
// lines that are too long for it are broken. What goes elsewhere stays in whole lines, for scripts.
#ifndef SOCKLEAK_TOOLS_TERMINAL_H
#define SOCKLEAK_TOOLS_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    TERMINAL_WIDTH_MIN = 40 // narrower ones get whole lines
};

enum color_when {
    COLOR_AUTO,
    COLOR_ALWAYS,
    COLOR_NEVER
};

extern const char *const terminal_color_names[]; // by enum color_when, ended by NULL

uint32_t terminal_width(FILE *stream); // columns; 0: no terminal

// COLOR_AUTO: on a terminal that is not "dumb", unless NO_COLOR is set (no-color.org).
bool terminal_has_color(FILE *stream, enum color_when when);

// --- lines --------------------------------------------------------------------------------------

// Breaks a line (without its newline) that is wider than `room` columns: `put` gets each piece, and
// how many blanks belong before it. Between columns of the text (three blanks) rather than between
// words, and in a word where there is no other place. Escape sequences for colour take no room, a
// sequence of UTF-8 takes one column.
typedef void terminal_put(void *context, size_t blanks, const char *piece, size_t piece_bytes);
void terminal_break(const char *line, size_t line_bytes, size_t room, terminal_put *put,
                    void *context);

// A line of text to a terminal so wide, with a newline; 0, or too narrow: whole.
void terminal_write_line(FILE *out, uint32_t width, const char *line, size_t line_bytes);

// Text that is written piece by piece:
//
//     struct terminal_page page;
//     FILE *out = terminal_page_begin(&page, stdout);
//     fprintf(out, ...);
//     terminal_page_end(&page);
struct terminal_page {
    FILE *to, *memory; // memory NULL: `to` gets it at once
    char *text;
    size_t text_bytes;
};

FILE *terminal_page_begin(struct terminal_page *page, FILE *to);
void terminal_page_end(struct terminal_page *page);

#endif
