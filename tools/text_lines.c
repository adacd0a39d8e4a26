#include "text_lines.h"
#include "base/format.h"
#include "report/text.h"
#include "terminal.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define DIM "\033[2m"
#define RESET "\033[0m"

// A line, or a piece of one: the margin `==PID== ` is on each.
struct piece_writer {
    const struct text_lines *lines;
    const char *front;
    size_t front_bytes;
};

static void put(void *context, size_t blanks, const char *text, size_t text_bytes) {
    const struct piece_writer *writer = context;
    const struct text_lines *lines = writer->lines;
    const char *style = lines->color && lines->style ? lines->style : "";
    fprintf(lines->out, "%s%.*s%s%s%*s%.*s%s\n", lines->color ? DIM : "", (int)writer->front_bytes,
            writer->front, lines->color ? RESET : "", style, (int)blanks, "", (int)text_bytes, text,
            style[0] ? RESET : "");
}

void text_lines_write(void *context, const char *line, size_t len_bytes) {
    struct text_lines *lines = context;
    size_t len = len_bytes && line[len_bytes - 1] == '\n' ? len_bytes - 1 : len_bytes;
    const char *end = len > 2 ? memmem(line + 2, len - 2, "==", 2) : NULL;
    size_t front = end ? (size_t)(end + 2 - line) : 0;
    front += end && front < len && line[front] == ' ';
    struct piece_writer writer = {lines, line, front};
    lines->is_after_gap = front == len;
    if (lines->width >= TERMINAL_WIDTH_MIN && front < lines->width / 2)
        terminal_break(line + front, len - front, lines->width - front, put, &writer);
    else
        put(&writer, 0, line + front, len - front);
    if (lines->style_once)
        lines->style = NULL;
    lines->style_once = false;
}

void text_lines_say(struct text_lines *lines, uint32_t pid, const char *format, ...) {
    char text[TEXT_LINE_BYTES], line[TEXT_LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    struct text_buffer out = text_buffer(line, sizeof line - 1);
    text_string(&out, "==");
    text_decimal(&out, pid);
    text_string(&out, "== ");
    text_foreign(&out, len < 0 ? "(cannot be written)" : text);
    while (out.len_bytes && line[out.len_bytes - 1] == ' ')
        out.len_bytes--;
    line[out.len_bytes++] = '\n';
    text_lines_write(lines, line, out.len_bytes);
}

void text_lines_gap(struct text_lines *lines, uint32_t pid) {
    if (!lines->is_after_gap)
        text_lines_say(lines, pid, "%s", "");
}

uint32_t text_lines_room(const struct text_lines *lines, uint32_t pid) {
    char front[32];
    int margin = snprintf(front, sizeof front, "==%u== ", pid);
    if (lines->width < TERMINAL_WIDTH_MIN)
        return TEXT_LINE_BYTES;
    return lines->width - (uint32_t)margin;
}
