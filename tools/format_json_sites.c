// Call sites and TIME_WAIT in the report's JSON. json_sites_reader.c reads them.
#include "errors.h"
#include "format.h"
#include "format_json.h"
#include "report/names.h"
#include "report/text.h"
#include "sites.h"
#include "time_wait.h"
#include <stdlib.h>

#define COUNTER(key, member)                                                                       \
    { key, offsetof(struct report_site, member) }
const struct format_json_counter format_json_site_counters[] = {
    COUNTER("opened", opened),
    COUNTER("closed", closed),
    COUNTER("closed_passive", passive),
    COUNTER("closed_active", active),
    COUNTER("closed_reset", reset),
    COUNTER("closed_connecting", connecting),
    COUNTER("closed_shared", shared),
    COUNTER("gave_up", gave_up),
    COUNTER("gave_up_ms", gave_up_ms),
    COUNTER("open", open),
    COUNTER("leaked", leaked),
    COUNTER("recent_active", recent_active),
    {0},
};

static void set_number(json_t *object, const char *key, uint64_t number) {
    format_json_set(object, key, format_json_number((int64_t)number));
}

// In thousandths: more digits would be noise. (A double of 2^53 and more is a whole number.)
static json_t *real_of(double value) {
    return json_real(value < 1e15 ? (double)(int64_t)(value * 1000 + 0.5) / 1000 : value);
}

static void set_real(json_t *object, const char *key, double value) {
    format_json_set(object, key, real_of(value));
}

static void set_real_or_null(json_t *object, const char *key, double value) {
    format_json_set(object, key, value < 0 ? json_null() : real_of(value));
}

// --- sites --------------------------------------------------------------------------------------

static json_t *lifetimes_of(const struct report_site *site) {
    json_t *buckets = json_array();
    int last = LEDGER_LIFETIME_BUCKETS;
    while (last > 0 && site->lifetimes[last - 1] == 0)
        last--;
    for (int i = 0; i < last; i++)
        format_json_append(buckets, format_json_number((int64_t)site->lifetimes[i]));
    return buckets;
}

static json_t *median_of(const struct report_site *site) {
    struct sites_median median;
    if (!sites_median(site, &median))
        return json_null();
    json_t *object = json_object();
    set_real(object, "from", median.from_ms);
    set_real_or_null(object, "to", median.to_ms);
    return object;
}

static json_t *site_of(const struct report_site *site) {
    json_t *object = json_object(), *close = json_null();
    format_json_set(object, "call", format_json_text(name_of_call(site->call)));
    format_json_set_stack(object, site->stack);
    for (const struct format_json_counter *c = format_json_site_counters; c->key; c++)
        set_number(object, c->key, *(const uint64_t *)((const char *)site + c->offset));
    set_real(object, "recent_per_second", site->recent_per_second);
    format_json_set(object, "sampled", json_boolean(site->is_sampled));
    format_json_set(object, "lifetime_median_ms", median_of(site));
    format_json_set(object, "lifetime_max_ms",
                    sites_median(site, &(struct sites_median){0})
                        ? format_json_number((int64_t)site->lifetime_max_ms)
                        : json_null());
    format_json_set(object, "lifetimes", lifetimes_of(site));
    if (site->close_stack) {
        close = json_object();
        format_json_set_stack(close, site->close_stack);
    }
    format_json_set(object, "active_close", close);
    return object;
}

json_t *format_json_sites(const struct report *report) {
    json_t *sites = json_array();
    for (uint32_t i = 0; report->has_named_sites && i < report->site_count; i++)
        format_json_append(sites, site_of(report->sites[i]));
    return sites;
}

// --- TIME_WAIT ----------------------------------------------------------------------------------

static json_t *address_of(const struct ledger_address *address) {
    char memory[80];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    text_address(&text, address);
    return format_json_text(memory);
}

static json_t *kernel_of(const struct report_kernel *kernel) {
    if (!kernel->is_known)
        return json_null();
    json_t *object = json_object(), *range = json_null();
    set_number(object, "time_wait", kernel->time_wait);
    if (kernel->last_port) {
        range = json_array();
        format_json_append(range, format_json_number(kernel->first_port));
        format_json_append(range, format_json_number(kernel->last_port));
    }
    format_json_set(object, "local_port_range", range);
    format_json_set(object, "tcp_tw_reuse",
                    kernel->tw_reuse < 0 ? json_null() : format_json_number(kernel->tw_reuse));
    format_json_set(object, "tcp_timestamps",
                    kernel->timestamps < 0 ? json_null() : format_json_number(kernel->timestamps));
    return object;
}

static json_t *peer_of(const struct time_wait_peer *peer, bool ports_are_known) {
    json_t *object = json_object();
    format_json_set(object, "peer", address_of(&peer->peer));
    set_number(object, "closed_active", peer->active);
    set_number(object, "recent_active", peer->recent_active);
    set_real(object, "recent_per_second", peer->recent_per_second);
    format_json_set(object, "time_wait",
                    peer->time_wait < 0 ? json_null() : format_json_number(peer->time_wait));
    set_real_or_null(object, "port_share", peer->share);
    set_real_or_null(object, "port_share_needed", peer->needed_share);
    set_real_or_null(object, "seconds_until_exhausted", peer->seconds_left);
    format_json_set(object, "tw_reuse_helps",
                    !ports_are_known || !peer->would_be_reused ? json_null()
                                                               : json_boolean(peer->is_reused));
    return object;
}

// Which site: by its place in `sites`.
static json_t *destinations_of(const struct report *report) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < report->site_count; i++)
        report->sites[i]->index = i;
    for (uint32_t i = 0; i < report->destination_count; i++) {
        const struct report_destination *from = &report->destinations[i];
        json_t *object = json_object();
        format_json_set(object, "peer", address_of(&from->peer));
        set_number(object, "site", from->stack->site->index);
        set_number(object, "closed_active", from->active);
        set_number(object, "recent_active", from->recent_active);
        set_real(object, "recent_per_second", from->recent_per_second);
        format_json_append(array, object);
    }
    return array;
}

json_t *format_json_time_wait(const struct report *report) {
    struct time_wait_view view;
    time_wait_view(report, &view);
    json_t *object = json_object(), *peers = json_array(), *advice = json_array();
    format_json_set(object, "matters", json_boolean(time_wait_matters(report, &view)));
    set_number(object, "closed_active", view.active);
    set_number(object, "recent_active", view.recent_active);
    set_real(object, "recent_per_second", view.recent_per_second);
    format_json_set(object, "kernel", kernel_of(&report->kernel));
    for (uint32_t i = 0; i < view.peer_count; i++)
        format_json_append(peers, peer_of(&view.peers[i], report->kernel.is_known));
    format_json_set(object, "peers", peers);
    if (report->has_named_sites)
        format_json_set(object, "destinations", destinations_of(report));
    for (uint32_t i = 0; i < view.advice_count; i++)
        format_json_append(advice, format_json_text(view.advice[i]));
    format_json_set(object, "advice", advice);
    time_wait_view_free(&view);
    return object;
}
