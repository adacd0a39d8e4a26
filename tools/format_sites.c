// Call sites as a table: the baseline against which two leaks of a thousand stand out.
#include "errors.h"
#include "format.h"
#include "format_sections.h"
#include "report/names.h"
#include "report/text.h"
#include "sites.h"
#include <stdlib.h>
#include <string.h>

enum column {
    LEAKED,
    OPEN,
    OPENED,
    PASSIVE,
    ACTIVE,
    RESET,
    FAILED,
    OTHER,
    MEDIAN,
    MAX,
    COLUMNS
};
enum {
    CELL_BYTES = 32,
    PLACE_BYTES = 512,
    PLACE_MIN = 24 // columns that a place wants beside the numbers; else it has a line of its own
};

static const char *const headings[COLUMNS] = {"leaked", "open",   "opened", "passive", "active",
                                              "reset",  "failed", "other",  "median",  "max"};
static const char opened_at[] = "  opened at";

struct row {
    char cells[COLUMNS][CELL_BYTES];
    char place[PLACE_BYTES];
};

void format_place(const struct report_stack *stack, char *out, size_t out_bytes) {
    const struct report_frame *frame = report_own_frame(stack);
    if (!frame)
        snprintf(out, out_bytes, "stack not recorded");
    else if (frame->file && frame->line)
        snprintf(out, out_bytes, "%s %s:%u", frame->function ? frame->function : "??",
                 format_path(frame->file), frame->line);
    else
        snprintf(out, out_bytes, "%s %s+0x%llx", frame->function ? frame->function : "??",
                 frame->module ? frame->module : "", (unsigned long long)frame->module_offset);
}

static void fill_age(char *cell, uint64_t ms, bool is_known) {
    struct text_buffer text = text_buffer(cell, CELL_BYTES);
    if (is_known)
        text_age(&text, ms);
    else
        text_string(&text, "-");
}

static void fill_row(struct row *row, const struct report_site *site) {
    uint64_t known = site->passive + site->active + site->reset + site->connecting;
    const uint64_t numbers[] = {
        site->leaked,     site->open,
        site->opened,     site->passive,
        site->active,     site->reset,
        site->connecting, site->closed > known ? site->closed - known : 0,
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        snprintf(row->cells[i], CELL_BYTES, "%llu", (unsigned long long)numbers[i]);
    sites_median_text(site, row->cells[8], CELL_BYTES);
    fill_age(row->cells[9], site->lifetime_max_ms, strcmp(row->cells[8], "-") != 0);
    char where[PLACE_BYTES - 32];
    format_place(site->stack, where, sizeof where);
    snprintf(row->place, sizeof row->place, "%s%s%s%s", where,
             site->call == CALL_UNKNOWN ? "" : " (",
             site->call == CALL_UNKNOWN ? "" : name_of_call(site->call),
             site->call == CALL_UNKNOWN ? "" : ")");
}

static size_t line_of(char *out, size_t out_bytes, const char *const *cells, const size_t *widths) {
    size_t len = 0;
    for (int i = 0; i < COLUMNS; i++)
        len += (size_t)snprintf(out + len, out_bytes - len, "  %*s", (int)widths[i], cells[i]);
    return len;
}

static void write_row(struct text_lines *lines, uint32_t pid, const struct row *row,
                      const size_t *widths) {
    const char *cells[COLUMNS];
    char numbers[COLUMNS * (CELL_BYTES + 2) + 1];
    for (int i = 0; i < COLUMNS; i++)
        cells[i] = row->cells[i];
    size_t len = line_of(numbers, sizeof numbers, cells, widths);
    uint32_t room = text_lines_room(lines, pid);
    if (len + 2 + PLACE_MIN <= room && len + 2 + strlen(row->place) <= room) {
        text_lines_say(lines, pid, "%s  %s", numbers, row->place);
        return;
    }
    text_lines_say(lines, pid, "  %s", row->place);
    text_lines_say(lines, pid, "%s", numbers);
}

// Where not even the numbers fit a line: "50 opened, 2 leaked, 48 passive", without the zeros.
static void write_words(struct text_lines *lines, uint32_t pid, const struct row *row) {
    static const int order[] = {OPENED, LEAKED, OPEN, PASSIVE, ACTIVE, RESET, FAILED, OTHER};
    char words[COLUMNS * (CELL_BYTES + 10) + 1];
    size_t len = 0;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (order[i] == OPENED || strcmp(row->cells[order[i]], "0") != 0)
            len += (size_t)snprintf(words + len, sizeof words - len, "%s%s %s", i ? ", " : "",
                                    row->cells[order[i]], headings[order[i]]);
    if (strcmp(row->cells[MEDIAN], "-") != 0)
        snprintf(words + len, sizeof words - len, "; median %s, max %s", row->cells[MEDIAN],
                 row->cells[MAX]);
    text_lines_say(lines, pid, "  %s", row->place);
    text_lines_say(lines, pid, "    %s", words);
}

static void write_table(struct text_lines *lines, uint32_t pid, const struct row *rows,
                        uint32_t count) {
    size_t widths[COLUMNS];
    char line[COLUMNS * (CELL_BYTES + 2) + 1];
    for (int i = 0; i < COLUMNS; i++) {
        widths[i] = strlen(headings[i]);
        for (uint32_t k = 0; k < count; k++)
            if (strlen(rows[k].cells[i]) > widths[i])
                widths[i] = strlen(rows[k].cells[i]);
    }
    size_t len = line_of(line, sizeof line, headings, widths);
    bool fits = len + strlen(opened_at) <= text_lines_room(lines, pid);
    if (fits)
        text_lines_say(lines, pid, "%s%s", line, opened_at);
    for (uint32_t i = 0; i < count; i++) {
        if (fits)
            write_row(lines, pid, &rows[i], widths);
        else
            write_words(lines, pid, &rows[i]);
    }
}

void format_sites(const struct report *report, struct text_lines *lines, uint32_t pid) {
    text_lines_gap(lines, pid);
    text_lines_say(lines, pid,
                   "call sites: sockets that are open now, and how the others were closed");
    if (report->site_count == 0) {
        text_lines_say(lines, pid, "  no socket was seen born");
    } else {
        struct row *rows = must_allocate(report->site_count, sizeof *rows);
        for (uint32_t i = 0; i < report->site_count; i++)
            fill_row(&rows[i], report->sites[i]);
        write_table(lines, pid, rows, report->site_count);
        free(rows);
        text_lines_say(lines, pid, "  passive: closed after the peer's FIN");
        text_lines_say(lines, pid, "  active: closed before it, which leaves TIME_WAIT here");
        text_lines_say(lines, pid,
                       "  reset: closed after the connection had died, or in a way that resets it");
        text_lines_say(lines, pid, "  failed: closed before there was a connection");
        text_lines_say(lines, pid, "  median, max: how long closed ones had been open");
        bool is_sampled = false;
        for (uint32_t i = 0; i < report->site_count; i++)
            is_sampled = is_sampled || report->sites[i]->is_sampled;
        if (is_sampled)
            text_lines_say(lines, pid,
                           "  passive to other are about right where many closed at once");
    }
}
