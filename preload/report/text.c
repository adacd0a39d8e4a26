#include "report/text.h"
#include "report/names.h"
#include "report/teardown.h"
#include <string.h>
#include <sys/socket.h>

enum {
    FRAME_COLUMN = 40,
    SECOND_MS = 1000,
    MINUTE_MS = 60 * SECOND_MS,
    HOUR_MS = 60 * MINUTE_MS
};

// --- lines --------------------------------------------------------------------------------------

static struct text_buffer begin_line(struct text_sink *sink) {
    // One byte is kept for the newline.
    struct text_buffer out = text_buffer(sink->line, sizeof sink->line - 1);
    text_string(&out, "==");
    text_decimal(&out, sink->pid);
    text_string(&out, "== ");
    return out;
}

static void end_line(struct text_sink *sink, struct text_buffer *out) {
    while (out->len_bytes && out->text[out->len_bytes - 1] == ' ')
        out->len_bytes--;
    sink->line[out->len_bytes] = '\n';
    sink->write_line(sink->context, sink->line, out->len_bytes + 1);
}

static void blank_line(struct text_sink *sink) {
    struct text_buffer out = begin_line(sink);
    end_line(sink, &out);
}

static void counted(struct text_buffer *out, uint64_t count, const char *noun) {
    text_decimal(out, count);
    text_char(out, ' ');
    text_string(out, noun);
    if (count != 1)
        text_char(out, 's');
}

void text_note(struct text_sink *sink, const char *note) {
    struct text_buffer out = begin_line(sink);
    text_string(&out, "sockleak: ");
    text_foreign(&out, note);
    end_line(sink, &out);
}

// --- addresses and times ------------------------------------------------------------------------

static void text_ipv4(struct text_buffer *out, const uint8_t *ip) {
    for (int i = 0; i < 4; i++) {
        if (i)
            text_char(out, '.');
        text_decimal(out, ip[i]);
    }
}

static unsigned group_at(const uint8_t *ip, int group) {
    return (unsigned)ip[2 * group] << 8 | ip[2 * group + 1];
}

static void text_group(struct text_buffer *out, unsigned group) {
    char digits[24];
    struct text_buffer hex = text_buffer(digits, sizeof digits);
    text_hex(&hex, group);
    text_string(out, digits + 2); // without 0x
}

// RFC 5952: the longest run of two or more zero groups is ::, the first one of equals; an IPv4
// address in IPv6 is written as such.
static void text_ipv6(struct text_buffer *out, const uint8_t *ip) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (memcmp(ip, mapped, sizeof mapped) == 0) {
        text_string(out, "::ffff:");
        text_ipv4(out, ip + sizeof mapped);
        return;
    }
    int run_at = -1, run_len = 1;
    for (int i = 0; i < 8; i++) {
        int len = 0;
        while (i + len < 8 && group_at(ip, i + len) == 0)
            len++;
        if (len > run_len) {
            run_at = i;
            run_len = len;
        }
    }
    for (int i = 0; i < 8; i++) {
        if (i == run_at) {
            text_string(out, "::");
            i += run_len - 1;
            continue;
        }
        if (i && i != run_at + run_len)
            text_char(out, ':');
        text_group(out, group_at(ip, i));
    }
}

void text_address(struct text_buffer *out, const struct ledger_address *address) {
    if (address->family == ADDRESS_INET) {
        text_ipv4(out, address->ip);
    } else if (address->family == ADDRESS_INET6) {
        text_char(out, '[');
        text_ipv6(out, address->ip);
        if (address->scope_id) {
            text_char(out, '%');
            text_decimal(out, address->scope_id);
        }
        text_char(out, ']');
    } else {
        text_char(out, '?');
        return;
    }
    text_char(out, ':');
    text_decimal(out, address->port);
}

void text_age(struct text_buffer *out, uint64_t ms) {
    if (ms < SECOND_MS) {
        text_decimal(out, ms);
        text_string(out, " ms");
    } else if (ms < 10 * MINUTE_MS) {
        text_decimal(out, ms / SECOND_MS);
        text_char(out, '.');
        text_decimal(out, ms % SECOND_MS / 100);
        text_string(out, " s");
    } else if (ms < 10 * HOUR_MS) {
        text_decimal(out, ms / MINUTE_MS);
        text_string(out, " min");
    } else {
        text_decimal(out, ms / HOUR_MS);
        text_string(out, " h");
    }
}

// --- parts of a report --------------------------------------------------------------------------

void text_headline(struct text_sink *sink, const struct text_head *head) {
    struct text_buffer out = begin_line(sink);
    text_string(&out, "sockleak: ");
    if (head->close_wait) {
        counted(&out, head->close_wait, "socket");
        text_string(&out, " left in CLOSE_WAIT");
    }
    if (head->dead) {
        text_string(&out, head->close_wait ? " and " : "");
        counted(&out, head->dead, "socket");
        text_string(&out, " dead but not closed");
    }
    if (!head->close_wait && !head->dead)
        text_string(&out, "no socket leaked");
    if (head->findings) {
        text_string(&out, " (");
        counted(&out, head->findings, "finding");
        text_char(&out, ')');
    }
    text_char(&out, ' ');
    text_string(&out, head->when);
    text_char(&out, ' ');
    text_foreign(&out, head->program);
    end_line(sink, &out);
    blank_line(sink);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void text_one_frame(struct text_sink *sink, unsigned shown, const struct text_frame *frame) {
    struct text_buffer out = begin_line(sink);
    size_t margin = out.len_bytes;
    text_string(&out, "    #");
    text_decimal(&out, shown);
    text_char(&out, ' ');
    if (frame->function) {
        text_foreign(&out, frame->function);
        if (!frame->line) {
            text_char(&out, '+');
            text_hex(&out, frame->function_offset);
        }
    } else {
        text_string(&out, "??");
    }
    text_pad(&out, margin + FRAME_COLUMN);
    if (frame->file && frame->line) {
        text_foreign(&out, frame->file);
        text_char(&out, ':');
        text_decimal(&out, frame->line);
        text_char(&out, ' ');
    }
    if (frame->module) {
        if (!frame->line) {
            text_foreign(&out, base_name(frame->module));
            text_string(&out, " (+");
            text_hex(&out, frame->module_offset);
            text_char(&out, ')');
        }
    } else {
        text_hex(&out, frame->module_offset);
        text_string(&out, " (in no file: generated code?)");
    }
    end_line(sink, &out);
}

static void text_frames(struct text_sink *sink, uint32_t stack, const struct text_namer *namer) {
    struct text_frame frame;
    unsigned shown = 0;
    for (uint32_t i = 0; stack != LEDGER_NO_STACK; i++) {
        memset(&frame, 0, sizeof frame);
        if (!namer->frame(namer->context, stack, i, &frame))
            break;
        if (!frame.hidden)
            text_one_frame(sink, shown++, &frame);
    }
}

static void text_stack(struct text_sink *sink, const char *heading, const char *call,
                       uint32_t stack, const struct text_namer *namer) {
    struct text_buffer out = begin_line(sink);
    text_string(&out, "  ");
    text_string(&out, heading);
    text_char(&out, ' ');
    text_string(&out, call);
    if (stack == LEDGER_NO_STACK)
        text_string(&out, " (stack not recorded)");
    end_line(sink, &out);
    text_frames(sink, stack, namer);
}

void text_site(struct text_sink *sink, uint32_t stack, const struct text_namer *namer) {
    text_frames(sink, stack, namer);
    blank_line(sink);
}

static void text_origin(struct text_sink *sink, const struct ledger_record *record,
                        const struct text_namer *namer) {
    if (record->birth_call != CALL_UNKNOWN) {
        text_stack(sink, record->provenance == PROVENANCE_RECEIVED ? "received by" : "opened by",
                   name_of_call(record->birth_call), record->birth_stack, namer);
        return;
    }
    struct text_buffer out = begin_line(sink);
    text_string(&out, "  origin unknown: opened where sockleak does not see it, or before it");
    end_line(sink, &out);
}

static void text_error(struct text_sink *sink, const struct ledger_record *record,
                       const struct text_namer *namer) {
    char heading[64];
    struct text_buffer out = text_buffer(heading, sizeof heading);
    text_string(&out, name_of_error(record->error));
    text_string(&out, " returned by");
    text_stack(sink, heading, name_of_call(record->error_call), record->error_stack, namer);
}

void text_finding(struct text_sink *sink, enum verdict verdict, uint64_t count,
                  const struct ledger_record *sample, const struct text_namer *namer) {
    struct text_buffer out = begin_line(sink);
    counted(&out, count, "socket");
    text_string(&out, ", ");
    text_string(&out, verdict_name(verdict));
    if (verdict != VERDICT_OPEN) {
        text_string(&out, ": ");
        text_string(&out, verdict_explanation_of(verdict, sample));
    }
    end_line(sink, &out);
    text_origin(sink, sample, namer);
    if (sample->eof_ns)
        text_stack(sink, "end of stream read by", name_of_call(sample->eof_call), sample->eof_stack,
                   namer);
    if (sample->error)
        text_error(sink, sample, namer);
    if (verdict == VERDICT_SHUTDOWN_UNCLOSED)
        text_stack(sink, "shut down by", "shutdown", sample->shutdown_stack, namer);
}

void text_cause(struct text_sink *sink, const char *sentence) {
    if (!*sentence)
        return;
    struct text_buffer out = begin_line(sink);
    text_string(&out, "  why: ");
    text_foreign(&out, sentence);
    end_line(sink, &out);
}

static void text_fds(struct text_buffer *out, const struct ledger_record *record,
                     const int32_t *fds) {
    enum {
        SHOWN = 4
    };
    uint32_t count = record->fd_count;
    text_string(out, "  fd ");
    for (uint32_t i = 0; fds && i < count && i < SHOWN; i++) {
        text_string(out, i ? "," : "");
        text_signed(out, fds[i]);
    }
    if (!fds)
        text_signed(out, record->first_fd);
    uint32_t shown = fds ? SHOWN : 1;
    if (count > shown) {
        text_string(out, " (and ");
        text_decimal(out, count - shown);
        text_string(out, " more)");
    }
}

static uint64_t ms_between(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (to_ns - from_ns) / 1000000 : 0;
}

// Who connected to whom; of a socket that was not seen born, nobody knows.
static const char *direction_of(const struct ledger_record *record) {
    bool is_accepted = record->birth_call == CALL_ACCEPT || record->birth_call == CALL_ACCEPT4;
    bool is_known = record->birth_call == CALL_SOCKET ||
                    (record->flags & (RECORD_CONNECTED | RECORD_CONNECTING));
    return is_accepted ? " <- " : is_known ? " -> " : " - ";
}

static void text_state(struct text_buffer *out, const struct ledger_record *record) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    enum verdict_group group = verdict_group(snapshot->verdict);
    if (group == GROUP_CLOSE_WAIT && record->family != AF_UNIX) {
        text_string(out, teardown_fin_is_bound(record) ? "   FIN at least " : "   FIN ");
        text_age(out, snapshot->state_age_ms);
        text_string(out, " ago");
    } else if (group == GROUP_DEAD) {
        // What the program was told of it may have been told late.
        text_string(out, snapshot->flags & SNAPSHOT_AGE_IS_BOUND ? "   dead for at most "
                         : record->error_ns                      ? "   dead for at least "
                                                                 : "   dead for ");
        text_age(out, snapshot->state_age_ms);
    } else {
        text_string(out, "   ");
        text_string(out, name_of_state(snapshot->state));
        if (snapshot->flags & SNAPSHOT_HAS_TCP_INFO) {
            text_char(out, ' ');
            text_age(out, snapshot->state_age_ms);
        }
    }
}

void text_socket(struct text_sink *sink, const struct ledger_record *record, const int32_t *fds) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    struct text_buffer out = begin_line(sink);
    size_t margin = out.len_bytes;
    text_fds(&out, record, fds);
    text_pad(&out, margin + 9);
    if (record->family != AF_UNIX) {
        text_address(&out, &record->local);
        text_string(&out, direction_of(record));
        text_address(&out, &record->peer);
    } else {
        text_string(&out, "unix");
    }
    if (!(snapshot->flags & SNAPSHOT_TAKEN)) { // its process died before a look at it
        text_string(&out, "   last known");
        end_line(sink, &out);
        return;
    }
    if (record->birth_ns) {
        text_string(&out, "   open ");
        text_age(&out, ms_between(record->birth_ns, snapshot->taken_ns));
    }
    text_state(&out, record);
    if (snapshot->flags & SNAPSHOT_HAS_QUEUES) {
        text_string(&out, "   ");
        text_decimal(&out, snapshot->recv_queue_bytes);
        text_string(&out, " bytes unread");
    }
    end_line(sink, &out);
}

void text_more(struct text_sink *sink, uint64_t count) {
    if (count == 0)
        return;
    struct text_buffer out = begin_line(sink);
    text_string(&out, "  ... and ");
    text_decimal(&out, count);
    text_string(&out, " more");
    end_line(sink, &out);
}

void text_summary(struct text_sink *sink, const struct text_totals *totals,
                  const struct ledger_counters *counters) {
    struct text_buffer out = begin_line(sink);
    text_string(&out, "summary: ");
    text_decimal(&out, totals->close_wait + totals->dead);
    text_string(&out, " leaked (");
    text_decimal(&out, totals->close_wait);
    text_string(&out, " close-wait, ");
    text_decimal(&out, totals->dead);
    text_string(&out, " dead), ");
    text_decimal(&out, totals->open);
    text_string(&out, " open, ");
    if (totals->inherited) {
        text_decimal(&out, totals->inherited);
        text_string(&out, " inherited, ");
    }
    text_decimal(&out, counters->closed);
    text_string(&out, " closed properly; ");
    text_decimal(&out, totals->not_tracked);
    text_string(&out, " not tracked");
    end_line(sink, &out);
}
