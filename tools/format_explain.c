// How a connection ended, drawn: the peer on the left, this program on the right, what went between
// them, and the step that is missing.
#include "base_name.h"
#include "format.h"
#include "format_sections.h"
#include "report/names.h"
#include "report/text.h"
#include <errno.h>
#include <string.h>
#include <time.h>

enum {
    BETWEEN = 29, // columns between the two sides
    NOTE_BYTES = 640,
    NOTE_MIN = 20 // columns that a note gets, however narrow the terminal
};

struct drawing {
    const struct report_socket *socket;
    struct text_lines *lines;
    uint32_t pid;
};

// --- lines --------------------------------------------------------------------------------------

// "---- FIN --->" of BETWEEN columns, or blanks for NULL.
static void arrow_of(const char *label, bool to_right, char *out) {
    memset(out, ' ', BETWEEN);
    out[BETWEEN] = '\0';
    if (!label)
        return;
    size_t len = strlen(label) + 2, left = (BETWEEN - len) / 2;
    memset(out + 1, '-', BETWEEN - 2);
    out[to_right ? BETWEEN - 2 : 1] = to_right ? '>' : '<';
    out[left] = ' ';
    memcpy(out + left + 1, label, len - 2);
    out[left + len - 1] = ' ';
}

// How much of a note goes on this line: all, or up to a blank.
static size_t part_of(const char *note, size_t room) {
    size_t len = strlen(note);
    if (len <= room)
        return len;
    for (size_t i = room; i > room / 3; i--)
        if (note[i] == ' ')
            return i;
    return room;
}

static void draw(const struct drawing *drawing, const char *label, bool to_right,
                 const char *note) {
    char arrow[BETWEEN + 1];
    size_t used = strlen("    |") + BETWEEN + strlen("|  ");
    size_t room = text_lines_room(drawing->lines, drawing->pid);
    room = room < used + NOTE_MIN ? NOTE_MIN : room - used;
    arrow_of(label, to_right, arrow);
    do {
        size_t len = part_of(note, room);
        text_lines_say(drawing->lines, drawing->pid, "    |%s|  %.*s", arrow, (int)len, note);
        note += len;
        note += strspn(note, " ");
        arrow_of(NULL, false, arrow);
    } while (*note);
}

// --- what is said of a step ---------------------------------------------------------------------

static void add_clock(struct text_buffer *out, int64_t epoch_ms) {
    char text[32];
    struct tm date;
    time_t seconds = (time_t)(epoch_ms / 1000);
    if (!localtime_r(&seconds, &date) || !strftime(text, sizeof text, "%H:%M:%S", &date))
        return;
    size_t len = strlen(text);
    snprintf(text + len, sizeof text - len, ".%03d", (int)(epoch_ms % 1000));
    text_string(out, "at ");
    text_string(out, text);
}

static void add_time(struct text_buffer *out, const struct report_event *event) {
    if (event->ago_ms < 0 && event->epoch_ms < 0)
        return;
    text_string(out, out->len_bytes ? "   " : "");
    bool is_bound = event->event.time == TEARDOWN_TIME_NOT_AFTER;
    if (event->ago_ms < 0) { // its process was killed: an age of what?
        text_string(out, is_bound ? "not after, " : "");
        add_clock(out, event->epoch_ms);
        return;
    }
    text_string(out, is_bound ? "at least " : "");
    text_age(out, (uint64_t)event->ago_ms);
    text_string(out, " ago");
}

static void add_place(struct text_buffer *out, const struct report_event *event) {
    char place[NOTE_BYTES / 2];
    if (!event->stack)
        return;
    format_place(event->stack, place, sizeof place);
    text_string(out, ", ");
    text_foreign(out, place);
}

static void add_state(struct text_buffer *out, const struct report_event *event) {
    if (event->event.state != STATE_UNKNOWN)
        text_string(out, name_of_state(event->event.state));
}

static void note_call(struct text_buffer *out, const struct report_event *event) {
    text_string(out, name_of_call(event->event.call));
    if (event->event.step == TEARDOWN_EOF_READ)
        text_string(out, " returned 0");
    if (event->event.step == TEARDOWN_ERROR_READ) {
        text_string(out, " returned ");
        text_string(out, name_of_error(event->event.error));
    }
}

// A close of one of several descriptors sends no FIN.
static void note_close_elsewhere(struct text_buffer *out, const struct ledger_record *record) {
    text_string(out, "close() called on ");
    text_decimal(out, record->fds_closed);
    text_string(out, record->fds_closed == 1 ? " other descriptor, never on fd "
                                             : " other descriptors, never on fd ");
    text_signed(out, record->first_fd);
}

static const char *missing(enum teardown_step step, bool is_leak, bool closes_too) {
    switch (step) {
    case TEARDOWN_PEER_FIN:
        return "the peer has sent no FIN so far";
    case TEARDOWN_PEER_ACK:
        return "the peer has not acknowledged our FIN so far";
    case TEARDOWN_OUR_FIN:
        return is_leak ? "close() never called: our FIN was never sent"
                       : "close() not called so far: our FIN was not sent";
    case TEARDOWN_OUR_CLOSE:
        if (closes_too)
            return NULL; // said with the FIN
        return is_leak ? "close() never called" : "close() not called so far";
    default:
        return NULL;
    }
}

// What the program was told says how it died. ETIMEDOUT: the kernel gave up, nothing came.
static const char *reset_label(const struct drawing *drawing) {
    switch (drawing->socket->record.error) {
    case ECONNRESET:
    case EPIPE:
        return "RST";
    case 0:
        return "RST, or a timeout";
    default:
        return NULL;
    }
}

static void draw_missing(const struct drawing *drawing, enum teardown_step step, bool is_leak,
                         bool closes_too) {
    char memory[NOTE_BYTES];
    struct text_buffer note = text_buffer(memory, sizeof memory);
    const struct ledger_record *record = &drawing->socket->record;
    const char *never = missing(step, is_leak, closes_too);
    if (!never)
        return;
    bool is_close = step == TEARDOWN_OUR_FIN || step == TEARDOWN_OUR_CLOSE;
    if (is_close && is_leak && record->fds_closed) {
        note_close_elsewhere(&note, record);
        text_string(&note, step == TEARDOWN_OUR_FIN ? ": our FIN was never sent" : "");
        never = memory;
    }
    draw(drawing, NULL, false, never);
}

static void draw_step(const struct drawing *drawing, const struct report_event *event) {
    char memory[NOTE_BYTES];
    struct text_buffer note = text_buffer(memory, sizeof memory);
    const char *label = NULL;
    switch (event->event.step) {
    case TEARDOWN_PEER_FIN:
    case TEARDOWN_OUR_FIN:
        label = "FIN";
        break;
    case TEARDOWN_OUR_ACK:
    case TEARDOWN_PEER_ACK:
        label = "ACK";
        break;
    case TEARDOWN_RESET:
        label = reset_label(drawing);
        break;
    default:
        break;
    }
    if (event->event.step == TEARDOWN_OUR_ACK) { // at once, by the kernel
        draw(drawing, label, false, "");
        return;
    }
    if (event->event.call != CALL_UNKNOWN) {
        note_call(&note, event);
        if (event->event.state != STATE_UNKNOWN)
            text_string(&note, ": ");
    }
    add_state(&note, event);
    add_time(&note, event);
    add_place(&note, event);
    draw(drawing, label, event->event.side == TEARDOWN_FROM_PEER, memory);
}

// --- all of it ----------------------------------------------------------------------------------

static void draw_head(const struct drawing *drawing) {
    const struct report_socket *socket = drawing->socket;
    char memory[128];
    struct text_buffer peer = text_buffer(memory, sizeof memory);
    text_string(&peer, "peer ");
    text_address(&peer, &socket->record.peer);
    text_lines_say(drawing->lines, drawing->pid, "  %-*s fd %d of %s", BETWEEN + 6, memory,
                   (int)socket->record.first_fd, base_name(report_program(socket->process)));
}

static bool has(const struct report_teardown *steps, enum teardown_step step, bool happened) {
    for (unsigned i = 0; i < steps->count; i++)
        if (steps->events[i].event.step == step && steps->events[i].event.happened == happened)
            return true;
    return false;
}

void format_explain(const struct report_socket *socket, struct text_lines *lines, uint32_t pid) {
    struct drawing drawing = {socket, lines, pid};
    struct report_teardown steps;
    report_socket_teardown(socket, &steps);
    if (steps.count == 0)
        return;
    draw_head(&drawing);
    bool is_leak = verdict_is_leak((enum verdict)socket->record.snapshot.verdict);
    bool no_fin = has(&steps, TEARDOWN_OUR_FIN, false);
    if (steps.first == TEARDOWN_FIRST_UNKNOWN && has(&steps, TEARDOWN_PEER_FIN, true) &&
        has(&steps, TEARDOWN_OUR_FIN, true))
        draw(&drawing, NULL, false, "which side sent its FIN first is not known");
    for (unsigned i = 0; i < steps.count; i++) {
        const struct report_event *event = &steps.events[i];
        if (event->event.happened)
            draw_step(&drawing, event);
        else
            draw_missing(&drawing, event->event.step, is_leak, no_fin);
    }
}
