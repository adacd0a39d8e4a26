#include "json_sites_reader.h"
#include "errors.h"
#include "format_json.h"
#include "gather.h"
#include "json_values.h"
#include <stdlib.h>
#include <string.h>

static uint64_t count_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    int64_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    return number > 0 ? (uint64_t)number : 0;
}

static int setting_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    int64_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    return number >= 0 && number <= INT32_MAX ? (int)number : -1;
}

static double rate_of(const json_t *object) {
    double rate = json_number_value(json_object_get(object, "recent_per_second"));
    // More in a second than there are ports and peers in the world: not a count of ours.
    return rate > 0 && rate < 1e9 ? rate : 0;
}

// The stack's site; NULL for one without a stack.
static struct report_stack *read_site(struct report *report, const json_t *object) {
    struct report_stack *stack = value_stack(report, object);
    const json_t *lifetimes = json_object_get(object, "lifetimes");
    const json_t *close = json_object_get(object, "active_close");
    if (!stack)
        return NULL;
    struct report_site *site = gather_site(report, stack);
    for (const struct format_json_counter *c = format_json_site_counters; c->key; c++)
        *(uint64_t *)((char *)site + c->offset) += count_of(object, c->key);
    site->recent_per_second += rate_of(object);
    for (size_t i = 0; i < LEDGER_LIFETIME_BUCKETS && i < json_array_size(lifetimes); i++) {
        int64_t count = json_integer_value(json_array_get(lifetimes, i));
        site->lifetimes[i] += count > 0 ? (uint64_t)count : 0;
    }
    site->is_sampled = site->is_sampled || json_is_true(json_object_get(object, "sampled"));
    uint64_t max_ms = count_of(object, "lifetime_max_ms");
    site->lifetime_max_ms = max_ms > site->lifetime_max_ms ? max_ms : site->lifetime_max_ms;
    if (json_is_object(close))
        site->close_stack = value_stack(report, close);
    uint8_t call = value_call(json_string_value(json_object_get(object, "call")));
    site->call = site->call == CALL_UNKNOWN ? call : site->call;
    return stack;
}

static void read_destinations(struct report *report, const json_t *list,
                              struct report_stack *const *stacks, size_t stack_count) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *object = json_array_get(list, i);
        uint64_t site = count_of(object, "site");
        const char *peer = json_string_value(json_object_get(object, "peer"));
        if (site >= stack_count || !stacks[site] || !peer)
            continue;
        struct report_destination *destination = gather_destination(report);
        destination->peer = value_address(peer);
        destination->stack = stacks[site];
        destination->active = count_of(object, "closed_active");
        destination->recent_active = count_of(object, "recent_active");
        destination->recent_per_second = rate_of(object);
    }
}

// Two documents are of two moments, or of two kernels: the first that knows is believed.
static void read_kernel(struct report_kernel *kernel, const json_t *time_wait) {
    const json_t *object = json_object_get(time_wait, "kernel");
    const json_t *range = json_object_get(object, "local_port_range");
    const json_t *peers = json_object_get(time_wait, "peers");
    if (kernel->is_known || !json_is_object(object))
        return;
    kernel->is_known = true;
    kernel->time_wait = count_of(object, "time_wait");
    json_int_t first = json_integer_value(json_array_get(range, 0));
    json_int_t last = json_integer_value(json_array_get(range, 1));
    if (first > 0 && first <= last && last <= UINT16_MAX) {
        kernel->first_port = (uint16_t)first;
        kernel->last_port = (uint16_t)last;
    }
    kernel->tw_reuse = setting_of(object, "tcp_tw_reuse");
    kernel->timestamps = setting_of(object, "tcp_timestamps");
    kernel->peers = must_allocate(json_array_size(peers), sizeof *kernel->peers);
    for (size_t i = 0; i < json_array_size(peers); i++) {
        const json_t *peer = json_array_get(peers, i);
        const char *address = json_string_value(json_object_get(peer, "peer"));
        if (address)
            kernel->peers[kernel->peer_count++] =
                (struct report_kernel_peer){value_address(address), count_of(peer, "time_wait")};
    }
    qsort(kernel->peers, kernel->peer_count, sizeof *kernel->peers, report_kernel_peer_order);
}

void json_sites_read(struct report *report, const json_t *document) {
    const json_t *list = json_object_get(document, "sites");
    const json_t *time_wait = json_object_get(document, "time_wait");
    size_t count = json_array_size(list);
    struct report_stack **stacks = must_allocate(count, sizeof(void *));
    for (size_t i = 0; i < count; i++)
        stacks[i] = read_site(report, json_array_get(list, i));
    read_destinations(report, json_object_get(time_wait, "destinations"), stacks, count);
    read_kernel(&report->kernel, time_wait);
    free(stacks);
}
