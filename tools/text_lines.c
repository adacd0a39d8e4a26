#include "text_lines.h"
#include "base/format.h"
#include "report/text.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH_MIN = 40, // narrower terminals get whole lines
    CONTINUED = 4   // columns that the rest of a broken line is indented by
};

#define DIM "\033[2m"
#define RESET "\033[0m"

static void put(const struct text_lines *lines, const char *front, size_t front_bytes,
                const char *text, size_t text_bytes) {
    if (!lines->color)
        fprintf(lines->out, "%.*s%.*s\n", (int)front_bytes, front, (int)text_bytes, text);
    else if (lines->style)
        fprintf(lines->out, DIM "%.*s" RESET "%s%.*s" RESET "\n", (int)front_bytes, front,
                lines->style, (int)text_bytes, text);
    else
        fprintf(lines->out, DIM "%.*s" RESET "%.*s\n", (int)front_bytes, front, (int)text_bytes,
                text);
}

static size_t leading_blanks(const char *text, size_t len) {
    size_t count = 0;
    while (count < len && text[count] == ' ')
        count++;
    return count;
}

// Where to break a text that is longer than `room`: between columns of it (three blanks) rather
// than between words, and in a word where there is no other place.
static size_t break_at(const char *text, size_t room) {
    size_t indent = leading_blanks(text, room), word = 0, column = 0;
    for (size_t i = indent + 1; i <= room; i++) {
        if (text[i] != ' ')
            continue;
        if (text[i - 1] != ' ')
            word = i;
        if (i >= 2 && text[i - 1] == ' ' && text[i - 2] == ' ' && i - 2 > indent)
            column = i - 2;
    }
    while (column > indent && text[column - 1] == ' ')
        column--;
    return column > room / 2 ? column : word ? word : room;
}

static void put_broken(const struct text_lines *lines, const char *front, size_t front_bytes,
                       const char *text, size_t text_bytes) {
    char piece[TEXT_LINE_BYTES];
    size_t room = lines->width - front_bytes;
    size_t indent = leading_blanks(text, text_bytes) + CONTINUED;
    if (indent > room / 2)
        indent = room / 2;
    size_t len = text_bytes < sizeof piece ? text_bytes : sizeof piece - 1;
    memcpy(piece, text, len);
    while (len > room) {
        size_t end = break_at(piece, room), next = end;
        while (next < len && piece[next] == ' ')
            next++;
        put(lines, front, front_bytes, piece, end);
        if (next <= indent)
            return; // no progress: cannot happen, since the indent is less than half the room
        memmove(piece + indent, piece + next, len - next);
        memset(piece, ' ', indent);
        len = len - next + indent;
    }
    put(lines, front, front_bytes, piece, len);
}

void text_lines_write(void *context, const char *line, size_t len_bytes) {
    struct text_lines *lines = context;
    size_t len = len_bytes && line[len_bytes - 1] == '\n' ? len_bytes - 1 : len_bytes;
    const char *end = len > 2 ? memmem(line + 2, len - 2, "==", 2) : NULL;
    size_t front = end ? (size_t)(end + 2 - line) : 0;
    front += end && front < len && line[front] == ' ';
    if (lines->width >= WIDTH_MIN && len > lines->width && front < lines->width / 2)
        put_broken(lines, line, front, line + front, len - front);
    else
        put(lines, line, front, line + front, len - front);
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

uint32_t text_lines_room(const struct text_lines *lines, uint32_t pid) {
    char front[32];
    int margin = snprintf(front, sizeof front, "==%u== ", pid);
    if (lines->width < WIDTH_MIN)
        return TEXT_LINE_BYTES;
    return lines->width - (uint32_t)margin;
}
