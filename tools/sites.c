#include "sites.h"
#include "errors.h"
#include "group.h"
#include <stdlib.h>
#include <string.h>

// --- what is open now ---------------------------------------------------------------------------

void sites_count_unjudged(const struct report_socket *socket) {
    struct report_site *site = socket->birth ? socket->birth->site : NULL;
    if (!site)
        return;
    site->open++;
    if (site->call == CALL_UNKNOWN)
        site->call = socket->record.birth_call;
}

static void count_socket(const struct report_socket *socket) {
    struct report_site *site = socket->birth ? socket->birth->site : NULL;
    if (!site || socket->hints & HINT_HELD_BY_PARENT) // that one counts it
        return;
    if (verdict_is_leak((enum verdict)socket->record.snapshot.verdict))
        site->leaked++;
    else
        site->open++;
    if (site->call == CALL_UNKNOWN)
        site->call = socket->record.birth_call;
}

void sites_count_sockets(struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++) {
        const struct report_process *process = report->processes[i];
        for (uint32_t k = 0; !process->is_judged && k < process->socket_count; k++)
            count_socket(&process->sockets[k]);
    }
}

// --- equal ones ---------------------------------------------------------------------------------

struct merging {
    struct report_site *site;
    uint64_t identity;
};

static int by_identity(const void *a, const void *b) {
    const struct merging *one = a, *other = b;
    if (one->identity != other->identity)
        return one->identity < other->identity ? -1 : 1;
    return one->site->stack->number < other->site->stack->number ? -1 : 1;
}

static void add(struct report_site *to, const struct report_site *from) {
    to->opened += from->opened;
    to->closed += from->closed;
    to->passive += from->passive;
    to->active += from->active;
    to->reset += from->reset;
    to->connecting += from->connecting;
    to->shared += from->shared;
    to->gave_up += from->gave_up;
    to->gave_up_ms += from->gave_up_ms;
    to->open += from->open;
    to->leaked += from->leaked;
    for (int i = 0; i < LEDGER_LIFETIME_BUCKETS; i++)
        to->lifetimes[i] += from->lifetimes[i];
    if (from->lifetime_max_ms > to->lifetime_max_ms)
        to->lifetime_max_ms = from->lifetime_max_ms;
    to->recent_active += from->recent_active;
    to->recent_per_second += from->recent_per_second;
    if (!to->close_stack)
        to->close_stack = from->close_stack;
    if (to->call == CALL_UNKNOWN)
        to->call = from->call;
}

static int by_weight(const void *a, const void *b) {
    const struct report_site *one = *(struct report_site *const *)a;
    const struct report_site *other = *(struct report_site *const *)b;
    if (one->leaked != other->leaked)
        return one->leaked > other->leaked ? -1 : 1;
    if (one->opened != other->opened)
        return one->opened > other->opened ? -1 : 1;
    return one->stack->number < other->stack->number ? -1
                                                     : one->stack->number > other->stack->number;
}

// Stacks of a ledger and of a JSON document are different objects even where they show the same.
static void merge_equal(struct report *report) {
    uint32_t count = report->site_count, kept = 0;
    struct merging *sorted = must_allocate(count, sizeof *sorted);
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = (struct merging){report->sites[i], group_identity(report->sites[i]->stack)};
    qsort(sorted, count, sizeof *sorted, by_identity);
    for (uint32_t i = 0; i < count; i++) {
        if (i && sorted[i].identity == sorted[i - 1].identity) {
            add(report->sites[kept - 1], sorted[i].site);
            sorted[i].site->stack->site = report->sites[kept - 1];
        } else {
            report->sites[kept++] = sorted[i].site;
        }
    }
    report->site_count = kept;
    free(sorted);
}

void sites_merge(struct report *report) {
    if (report->site_count == 0)
        return;
    if (report->has_named_sites)
        merge_equal(report);
    qsort(report->sites, report->site_count, sizeof(struct report_site *), by_weight);
}

// --- lifetimes ----------------------------------------------------------------------------------

// The bounds of a bucket: see ledger_stack.lifetimes.
static double bucket_begin_ms(int bucket) {
    double power = (double)(1ull << (bucket / 2));
    return bucket == 0 ? 0 : bucket % 2 ? 1.5 * power : power;
}

bool sites_median(const struct report_site *site, struct sites_median *out) {
    uint64_t count = 0, seen = 0;
    for (int i = 0; i < LEDGER_LIFETIME_BUCKETS; i++)
        count += site->lifetimes[i];
    if (count == 0)
        return false;
    int bucket = -1;
    while (bucket + 1 < LEDGER_LIFETIME_BUCKETS && seen <= (count - 1) / 2)
        seen += site->lifetimes[++bucket];
    bool is_last = bucket + 1 == LEDGER_LIFETIME_BUCKETS;
    *out =
        (struct sites_median){bucket_begin_ms(bucket), is_last ? -1 : bucket_begin_ms(bucket + 1)};
    return true;
}

static void write_time(char *out, size_t out_bytes, double value) {
    snprintf(out, out_bytes, value < 10 && value != (double)(long)value ? "%.1f" : "%.0f", value);
}

void sites_median_text(const struct report_site *site, char *out, size_t out_bytes) {
    struct sites_median median;
    char from[24], to[24];
    if (!sites_median(site, &median)) {
        snprintf(out, out_bytes, "-");
        return;
    }
    double highest = median.to_ms < 0 ? median.from_ms : median.to_ms;
    double unit_ms = highest < 1000 ? 1 : highest < 600000 ? 1000 : 60000;
    const char *unit = highest < 1000 ? "ms" : highest < 600000 ? "s" : "min";
    write_time(from, sizeof from, median.from_ms / unit_ms);
    write_time(to, sizeof to, median.to_ms / unit_ms);
    if (median.to_ms < 0)
        snprintf(out, out_bytes, ">%s %s", from, unit);
    else if (median.from_ms <= 0)
        snprintf(out, out_bytes, "<%s %s", to, unit);
    else
        snprintf(out, out_bytes, "%s-%s %s", from, to, unit);
}
