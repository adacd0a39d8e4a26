#include "terminal.h"
#include "utf8.h"
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    WIDTH_UNKNOWN = 80, // of a terminal that does not tell
    CONTINUED = 4       // columns that the rest of a broken line is indented by
};

const char *const terminal_color_names[] = {"auto", "always", "never", NULL};

uint32_t terminal_width(FILE *stream) {
    struct winsize size;
    if (!isatty(fileno(stream)))
        return 0;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col)
        return size.ws_col;
    return WIDTH_UNKNOWN;
}

bool terminal_has_color(FILE *stream, enum color_when when) {
    const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
    if (when != COLOR_AUTO)
        return when == COLOR_ALWAYS;
    return isatty(fileno(stream)) && !(no_color && *no_color) &&
           !(terminal && strcmp(terminal, "dumb") == 0);
}

// --- breaking -----------------------------------------------------------------------------------

// Bytes of what stands at `at`, and the columns that it takes.
static size_t next_glyph(const char *at, const char *end, size_t *columns) {
    *columns = 1;
    if (*at == '\033') {
        const char *last = memchr(at, 'm', (size_t)(end - at));
        *columns = 0;
        return last ? (size_t)(last + 1 - at) : 1;
    }
    size_t bytes = (unsigned char)*at < 0x80 ? 1 : utf8_sequence(at);
    return bytes && bytes <= (size_t)(end - at) ? bytes : 1;
}

static size_t leading_blanks(const char *line, size_t bytes) {
    size_t count = 0;
    while (count < bytes && line[count] == ' ')
        count++;
    return count;
}

// Bytes of `line` that go before the break; all of them where it fits.
static size_t break_at(const char *line, size_t bytes, size_t room) {
    const char *end = line + bytes;
    size_t indent = leading_blanks(line, bytes), column = 0, blanks = 0, width;
    size_t word = 0, gap = 0, gap_column = 0;
    for (size_t at = 0; at < bytes; column += width) {
        size_t glyph = next_glyph(line + at, end, &width);
        if (line[at] == ' ' && at > indent) {
            blanks++;
            if (blanks == 1 && column <= room)
                word = at;
            if (blanks == 3 && column <= room) {
                gap = word;
                gap_column = column - 2;
            }
        } else if (width) {
            if (column >= room)
                return gap_column > room / 2 ? gap : word ? word : at;
            blanks = 0;
        }
        at += glyph;
    }
    return bytes;
}

void terminal_break(const char *line, size_t bytes, size_t room, terminal_put *put, void *context) {
    size_t indent = leading_blanks(line, bytes) + CONTINUED, blanks = 0;
    if (indent > room / 2)
        indent = room / 2;
    for (;;) {
        size_t front = break_at(line, bytes, room - blanks);
        put(context, blanks, line, front);
        front += leading_blanks(line + front, bytes - front);
        line += front;
        bytes -= front;
        if (bytes == 0)
            return;
        blanks = indent;
    }
}

// --- writing ------------------------------------------------------------------------------------

static void put_piece(void *out, size_t blanks, const char *piece, size_t bytes) {
    fprintf(out, "%*s%.*s\n", (int)blanks, "", (int)bytes, piece);
}

void terminal_write_line(FILE *out, uint32_t width, const char *line, size_t bytes) {
    if (width < TERMINAL_WIDTH_MIN)
        put_piece(out, 0, line, bytes);
    else
        terminal_break(line, bytes, width, put_piece, out);
}

FILE *terminal_page_begin(struct terminal_page *page, FILE *to) {
    *page = (struct terminal_page){.to = to};
    if (terminal_width(to) >= TERMINAL_WIDTH_MIN)
        page->memory = open_memstream(&page->text, &page->text_bytes);
    return page->memory ? page->memory : to;
}

void terminal_page_end(struct terminal_page *page) {
    if (!page->memory)
        return;
    uint32_t width = terminal_width(page->to);
    fclose(page->memory);
    for (char *line = page->text; *line;) {
        size_t bytes = strcspn(line, "\n");
        terminal_write_line(page->to, width, line, bytes);
        line += bytes + (line[bytes] == '\n');
    }
    free(page->text);
}
