#include "watch.h"
#include "base/clock.h"
#include "errors.h"
#include "format.h"
#include "terminal.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct tracked {
    char fingerprint[17];
    uint64_t first, before, now;      // sockets
    const struct report_class *shown; // in the report of this look; NULL: it is gone
    char name[64];                    // for when it is gone
};

struct watch {
    struct tracked *list;
    uint32_t count, looks;
    uint64_t first_ms, before_ms, now_ms;
    uint64_t close_wait, dead, close_wait_before;
};

struct watch *watch_new(void) {
    return must_allocate(1, sizeof(struct watch));
}

void watch_free(struct watch *watch) {
    if (watch)
        free(watch->list);
    free(watch);
}

// --- remembering --------------------------------------------------------------------------------

static struct tracked *tracked_of(struct watch *watch, const struct report_finding *finding) {
    for (uint32_t i = 0; i < watch->count; i++)
        if (strcmp(watch->list[i].fingerprint, finding->fingerprint) == 0)
            return &watch->list[i];
    watch->list = must_reallocate(watch->list, watch->count + 1, sizeof *watch->list);
    struct tracked *added = &watch->list[watch->count++];
    memset(added, 0, sizeof *added);
    memcpy(added->fingerprint, finding->fingerprint, sizeof added->fingerprint);
    return added;
}

static void take(struct watch *watch, const struct report_class *merged) {
    const struct report_finding *sample = merged->findings[0];
    if (!sample->is_leak || sample->suppressed_by || sample->is_known)
        return;
    const struct report_frame *frame = report_finding_frame(sample);
    struct tracked *tracked = tracked_of(watch, sample);
    tracked->now += merged->socket_count;
    tracked->shown = merged;
    snprintf(tracked->name, sizeof tracked->name, "%s",
             frame && frame->function ? frame->function : "origin unknown");
    *(verdict_group(sample->verdict) == GROUP_DEAD ? &watch->dead : &watch->close_wait) +=
        merged->socket_count;
}

static int64_t growth_of(const struct tracked *tracked) {
    return (int64_t)(tracked->now - tracked->before);
}

static int by_growth(const void *left, const void *right) {
    const struct tracked *a = left, *b = right;
    if (growth_of(a) != growth_of(b))
        return growth_of(a) > growth_of(b) ? -1 : 1;
    if (a->now != b->now)
        return a->now > b->now ? -1 : 1;
    return strcmp(a->fingerprint, b->fingerprint);
}

static void remember(struct watch *watch, const struct report *report) {
    watch->before_ms = watch->now_ms;
    watch->now_ms = clock_now_ns() / 1000000;
    watch->close_wait_before = watch->close_wait;
    watch->close_wait = watch->dead = 0;
    for (uint32_t i = 0; i < watch->count; i++) {
        watch->list[i].before = watch->list[i].now;
        watch->list[i].now = 0;
        watch->list[i].shown = NULL;
    }
    for (uint32_t i = 0; i < report->class_count; i++)
        take(watch, &report->classes[i]);
    if (watch->looks++ == 0) {
        watch->first_ms = watch->now_ms;
        for (uint32_t i = 0; i < watch->count; i++)
            watch->list[i].first = watch->list[i].before = watch->list[i].now;
    }
    if (watch->count)
        qsort(watch->list, watch->count, sizeof *watch->list, by_growth);
}

// --- telling ------------------------------------------------------------------------------------

// Looks are as far apart as they were to be, to within some milliseconds: not "9.9 s".
static void write_interval(uint64_t ms, struct text_buffer *out) {
    uint64_t rounded = ms < 950 ? ms : (ms + 50) / 100 * 100;
    if (rounded < 1000 || rounded % 1000) {
        text_age(out, rounded);
        return;
    }
    text_decimal(out, rounded / 1000);
    text_string(out, " s");
}

// " (+12 in 10 s)"; the first look has nothing to compare with.
static void write_growth(const struct watch *watch, int64_t growth, const struct watch_style *style,
                         FILE *out) {
    char memory[32];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    if (watch->looks == 1)
        return;
    write_interval(watch->now_ms - watch->before_ms, &text);
    const char *mark = style->color && growth > 0 ? "\033[1;31m" : "";
    fprintf(out, " (%s%+" PRId64 "%s in %s)", mark, growth, mark[0] ? "\033[0m" : "", memory);
}

static void write_place(const struct report_finding *sample, FILE *out) {
    const struct report_frame *told = report_own_frame(sample->sockets[0]->end_of_stream);
    const struct report_frame *birth = report_own_frame(sample->sockets[0]->birth);
    const struct report_frame *places[] = {told, birth};
    for (int i = 0; i < 2; i++) {
        if (!places[i])
            continue;
        if (i == 0)
            fputs(", end of stream read in ", out);
        else
            fprintf(out, ", opened by %s in ", report_birth_call(sample->sockets[0]));
        fputs(places[i]->function ? places[i]->function : "?", out);
        if (places[i]->file)
            fprintf(out, " %s:%u", format_path(places[i]->file), places[i]->line);
    }
}

static void write_finding(const struct watch *watch, const struct tracked *tracked,
                          const struct watch_style *style, FILE *out) {
    fprintf(out, "%s%8" PRIu64, style->front, tracked->now);
    write_growth(watch, growth_of(tracked), style, out);
    if (tracked->shown) {
        const struct report_finding *sample = tracked->shown->findings[0];
        fprintf(out, "  %s", verdict_name(sample->verdict));
        write_place(sample, out);
    } else {
        fprintf(out, "  %s: closed since", tracked->name);
    }
    fputc('\n', out);
}

static void write_text(const struct watch *watch, const struct watch_style *style, FILE *out) {
    char clock[16];
    struct tm local;
    time_t now = time(NULL);
    strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&now, &local));
    fprintf(out, "%s%s  %" PRIu64 " socket%s left in CLOSE_WAIT", style->front, clock,
            watch->close_wait, watch->close_wait == 1 ? "" : "s");
    write_growth(watch, (int64_t)(watch->close_wait - watch->close_wait_before), style, out);
    fprintf(out, ", %" PRIu64 " dead\n", watch->dead);
    for (uint32_t i = 0; i < watch->count; i++)
        if (watch->list[i].now || watch->list[i].before)
            write_finding(watch, &watch->list[i], style, out);
}

// --- JSON ---------------------------------------------------------------------------------------

static json_t *place_of(const struct report_frame *frame) {
    json_t *object = json_object();
    if (!frame) {
        json_decref(object);
        return json_null();
    }
    format_json_set(object, "function", format_json_text(frame->function));
    format_json_set(object, "file", format_json_text(frame->file));
    format_json_set(object, "line", frame->line ? format_json_number(frame->line) : json_null());
    return object;
}

static json_t *finding_of(const struct watch *watch, const struct tracked *tracked) {
    json_t *object = json_object(), *pids = json_array();
    const struct report_finding *sample = tracked->shown ? tracked->shown->findings[0] : NULL;
    const struct report_socket *socket = sample ? sample->sockets[0] : NULL;
    format_json_set(object, "fingerprint", format_json_text(tracked->fingerprint));
    format_json_set(object, "verdict",
                    format_json_text(sample ? verdict_name(sample->verdict) : NULL));
    format_json_set(object, "count", format_json_number((int64_t)tracked->now));
    format_json_set(object, "grown",
                    watch->looks > 1 ? format_json_number(growth_of(tracked)) : json_null());
    format_json_set(object, "grown_since_start",
                    format_json_number((int64_t)(tracked->now - tracked->first)));
    for (uint32_t i = 0; tracked->shown && i < tracked->shown->finding_count; i++)
        format_json_append(pids, format_json_number(tracked->shown->findings[i]->process->pid));
    format_json_set(object, "pids", pids);
    format_json_set(object, "birth", place_of(socket ? report_own_frame(socket->birth) : NULL));
    format_json_set(object, "end_of_stream",
                    place_of(socket ? report_own_frame(socket->end_of_stream) : NULL));
    return object;
}

static void write_json(const struct watch *watch, FILE *out) {
    json_t *document = json_object(), *findings = json_array();
    format_json_set(document, "schema", format_json_text("sockleak-watch/1"));
    format_json_set(document, "elapsed_ms",
                    format_json_number((int64_t)(watch->now_ms - watch->first_ms)));
    format_json_set(document, "interval_ms",
                    watch->looks > 1
                        ? format_json_number((int64_t)(watch->now_ms - watch->before_ms))
                        : json_null());
    format_json_set(document, "close_wait", format_json_number((int64_t)watch->close_wait));
    format_json_set(document, "dead", format_json_number((int64_t)watch->dead));
    for (uint32_t i = 0; i < watch->count; i++)
        if (watch->list[i].now || watch->list[i].before)
            format_json_append(findings, finding_of(watch, &watch->list[i]));
    format_json_set(document, "findings", findings);
    json_dumpf(document, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(document);
}

void watch_look(struct watch *watch, const struct report *report, const struct watch_style *style,
                FILE *out) {
    struct terminal_page page;
    remember(watch, report);
    if (style->json) {
        write_json(watch, out);
        return;
    }
    write_text(watch, style, terminal_page_begin(&page, out));
    terminal_page_end(&page);
}
