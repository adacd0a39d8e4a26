#include "time_wait.h"
#include "diag.h"
#include "errors.h"
#include "gather.h"
#include "report/text.h"
#include <stdlib.h>
#include <string.h>

enum {
    TIME_WAIT_S = 60,
    PLACE_BYTES = 512,
    ADVICE_BYTES = 1024,
    LIKELY_CLOSES = 200 // in a minute, where the range of ports is not known
};

// --- asking the kernel --------------------------------------------------------------------------

static void count_peers(struct report_kernel *kernel, const struct diag_table *table) {
    kernel->peers = must_allocate(table->count, sizeof *kernel->peers);
    for (size_t i = 0; i < table->count; i++)
        if (table->sockets[i].state == STATE_TIME_WAIT)
            kernel->peers[kernel->time_wait++] =
                (struct report_kernel_peer){table->sockets[i].peer, 1};
    qsort(kernel->peers, kernel->time_wait, sizeof *kernel->peers, report_kernel_peer_order);
    for (uint64_t i = 0; i < kernel->time_wait; i++)
        if (kernel->peer_count && report_kernel_peer_order(&kernel->peers[kernel->peer_count - 1],
                                                           &kernel->peers[i]) == 0)
            kernel->peers[kernel->peer_count - 1].time_wait++;
        else
            kernel->peers[kernel->peer_count++] = kernel->peers[i];
}

int time_wait_ask(struct report *report, pid_t pid) {
    struct diag_table table;
    int error = diag_read_of(pid, &table);
    if (error < 0)
        return error;
    free(report->kernel.peers);
    report->kernel = (struct report_kernel){.is_known = true,
                                            .first_port = table.first_port,
                                            .last_port = table.last_port,
                                            .tw_reuse = table.tw_reuse,
                                            .timestamps = table.timestamps};
    count_peers(&report->kernel, &table);
    diag_free(&table);
    return 0;
}

static int64_t kernel_count(const struct report_kernel *kernel, const struct ledger_address *peer) {
    struct report_kernel_peer wanted = {.peer = *peer};
    if (!kernel->is_known)
        return -1;
    const struct report_kernel_peer *found =
        kernel->peer_count ? bsearch(&wanted, kernel->peers, kernel->peer_count, sizeof wanted,
                                     report_kernel_peer_order)
                           : NULL;
    return found ? (int64_t)found->time_wait : 0;
}

static uint32_t port_count(const struct report_kernel *kernel) {
    return kernel->is_known && kernel->last_port ? kernel->last_port - kernel->first_port + 1u : 0;
}

static uint64_t exhausted_ports(const struct report *report) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < report->process_count; i++)
        count += report->processes[i]->counters.exhausted[EXHAUSTED_PORTS];
    return count;
}

// Of this process's own namespace: most often that of the others, and else a guess.
static uint64_t closes_that_may_matter(void) {
    uint16_t first, last;
    return diag_port_range(&first, &last) ? ((uint64_t)last - first + 1) / 2 : LIKELY_CLOSES;
}

bool time_wait_is_likely(const struct report *report) {
    uint64_t closes = 0;
    for (uint32_t i = 0; i < report->destination_count; i++)
        closes += report->destinations[i].recent_active;
    return closes >= closes_that_may_matter() || exhausted_ports(report) > 0;
}

// --- destinations -------------------------------------------------------------------------------

static int by_peer_and_site(const void *a, const void *b) {
    const struct report_destination *one = a, *other = b;
    int peers = memcmp(&one->peer, &other->peer, sizeof one->peer);
    uint32_t site = one->stack->site->stack->number, others = other->stack->site->stack->number;
    return peers ? peers : site < others ? -1 : site > others;
}

static int most_recent_first(const void *a, const void *b) {
    const struct report_destination *one = a, *other = b;
    if (one->recent_active != other->recent_active)
        return one->recent_active > other->recent_active ? -1 : 1;
    if (one->active != other->active)
        return one->active > other->active ? -1 : 1;
    return by_peer_and_site(a, b);
}

void time_wait_merge(struct report *report) {
    struct report_destination *all = report->destinations;
    uint32_t kept = 0;
    if (report->destination_count == 0)
        return;
    qsort(all, report->destination_count, sizeof *all, by_peer_and_site);
    for (uint32_t i = 0; i < report->destination_count; i++)
        if (kept && by_peer_and_site(&all[kept - 1], &all[i]) == 0) {
            all[kept - 1].active += all[i].active;
            all[kept - 1].recent_active += all[i].recent_active;
            all[kept - 1].recent_per_second += all[i].recent_per_second;
        } else {
            all[kept++] = all[i];
        }
    report->destination_count = kept;
    qsort(all, kept, sizeof *all, most_recent_first);
}

// --- one destination ----------------------------------------------------------------------------

static bool is_loopback(const struct ledger_address *address) {
    static const uint8_t ipv6_loopback[16] = {[15] = 1};
    return address->family == ADDRESS_INET ? address->ip[0] == 127
                                           : memcmp(address->ip, ipv6_loopback, 16) == 0;
}

// tcp_tw_reuse: 0 never, 1 always, 2 on the loopback interface only; and only with timestamps, for
// an entry that is older than a second (tcp_twsk_unique in net/ipv4/tcp_ipv4.c).
static void judge_reuse(const struct report_kernel *kernel, struct time_wait_peer *peer) {
    if (!kernel->is_known || kernel->tw_reuse < 0 || kernel->timestamps == 0)
        return;
    peer->is_reused = kernel->tw_reuse == 1 || (kernel->tw_reuse == 2 && is_loopback(&peer->peer));
    peer->would_be_reused = true;
}

static void judge_ports(const struct report *report, uint32_t ports, struct time_wait_peer *peer) {
    peer->time_wait = kernel_count(&report->kernel, &peer->peer);
    peer->share = peer->needed_share = peer->seconds_left = -1;
    judge_reuse(&report->kernel, peer);
    if (ports == 0)
        return;
    double taken = (double)peer->time_wait, needed = peer->recent_per_second * TIME_WAIT_S;
    peer->share = taken / ports;
    peer->needed_share = needed / ports;
    if (needed > ports)
        peer->seconds_left = taken < ports ? (ports - taken) / peer->recent_per_second : 0;
}

static int busiest_first(const void *a, const void *b) {
    const struct time_wait_peer *one = a, *other = b;
    if (one->recent_active != other->recent_active)
        return one->recent_active > other->recent_active ? -1 : 1;
    if (one->active != other->active)
        return one->active > other->active ? -1 : 1;
    return memcmp(&one->peer, &other->peer, sizeof one->peer);
}

// --- advice -------------------------------------------------------------------------------------

bool time_wait_is_timeout_driven(const struct report_site *site) {
    uint64_t impatient = site->gave_up + site->connecting;
    return impatient > 0 && 2 * impatient > site->active + site->connecting;
}

static void advise(struct time_wait_view *view, const char *text) {
    view->advice = must_reallocate(view->advice, view->advice_count + 1, sizeof *view->advice);
    view->advice[view->advice_count++] = must_copy(text);
}

// "fetch (client.c:40)"
static void place_of(const struct report_site *site, char *out, size_t out_bytes) {
    const struct report_frame *frame = report_own_frame(site->stack);
    if (frame && frame->file && frame->line)
        snprintf(out, out_bytes, "%s (%s:%u)", frame->function ? frame->function : "??",
                 frame->file, frame->line);
    else
        snprintf(out, out_bytes, "%s",
                 frame && frame->function ? frame->function : "this call site");
}

static void advise_patience(struct time_wait_view *view, const struct report_site *site) {
    char place[PLACE_BYTES], text[ADVICE_BYTES], age[32];
    struct text_buffer waited = text_buffer(age, sizeof age);
    uint64_t all = site->active + site->connecting;
    text_age(&waited, site->gave_up ? site->gave_up_ms / site->gave_up : 0);
    place_of(site, place, sizeof place);
    int len = snprintf(text, sizeof text,
                       "%s is driven by timeouts: of %llu connections that it closed first, ",
                       place, (unsigned long long)all);
    if (site->gave_up && len > 0 && (size_t)len < sizeof text)
        len += snprintf(text + len, sizeof text - (size_t)len,
                        "%llu had no answer to the last bytes sent, for %s on average%s",
                        (unsigned long long)site->gave_up, age, site->connecting ? ", and " : "");
    if (site->connecting && len > 0 && (size_t)len < sizeof text)
        len += snprintf(text + len, sizeof text - (size_t)len, "%llu had not been connected yet",
                        (unsigned long long)site->connecting);
    if (len > 0 && (size_t)len < sizeof text)
        snprintf(text + len, sizeof text - (size_t)len,
                 ": find out why the peer is slow, or wait longer; a pool alone will not help");
    advise(view, text);
}

static void advise_keeping(struct time_wait_view *view, const struct time_wait_peer *peer) {
    char place[PLACE_BYTES], text[ADVICE_BYTES], memory[80];
    struct text_buffer address = text_buffer(memory, sizeof memory);
    text_address(&address, &peer->peer);
    place_of(peer->site, place, sizeof place);
    snprintf(text, sizeof text,
             "keep connections to %s open and use them again (keep-alive, or a pool), first of all "
             "those that %s makes: it closed %llu of them in the last 60 s",
             memory, place, (unsigned long long)peer->recent_active);
    advise(view, text);
}

static void advise_reuse(struct time_wait_view *view, const struct report_kernel *kernel,
                         const struct time_wait_peer *peer) {
    char text[ADVICE_BYTES], memory[80];
    struct text_buffer address = text_buffer(memory, sizeof memory);
    text_address(&address, &peer->peer);
    if (!kernel->is_known || kernel->tw_reuse < 0 || view->is_contradicted)
        return;
    if (kernel->timestamps == 0)
        snprintf(text, sizeof text,
                 "net.ipv4.tcp_tw_reuse cannot help: it needs net.ipv4.tcp_timestamps, which is 0");
    else if (peer->is_reused)
        snprintf(text, sizeof text,
                 "net.ipv4.tcp_tw_reuse=%d helps already: a port in TIME_WAIT to %s is taken again "
                 "after a second%s",
                 kernel->tw_reuse, memory, kernel->tw_reuse == 2 ? " (loopback only)" : "");
    else
        snprintf(
            text, sizeof text,
            "net.ipv4.tcp_tw_reuse=%d does not help here; 1 would: a port in TIME_WAIT to %s is "
            "then taken again after a second (outgoing connections only)",
            kernel->tw_reuse, memory);
    advise(view, text);
}

// TIME_WAIT of an accepted connection has the listener's port: none of the range is taken.
static void advise_accepted(struct time_wait_view *view, const struct report *report) {
    char text[ADVICE_BYTES];
    uint64_t made = 0, lost = 0;
    for (uint32_t i = 0; i < report->destination_count; i++)
        made += report->destinations[i].recent_active;
    for (uint32_t i = 0; i < report->process_count; i++)
        lost += report->processes[i]->counters.destinations_lost;
    if (view->recent_active <= made || lost)
        return;
    snprintf(text, sizeof text,
             "%llu of these closes were of connections that a peer made: their TIME_WAIT takes no "
             "local port of the range, only some memory",
             (unsigned long long)(view->recent_active - made));
    advise(view, text);
}

static void make_advice(struct time_wait_view *view, const struct report *report) {
    for (uint32_t i = 0; i < report->site_count; i++)
        if (time_wait_is_timeout_driven(report->sites[i]))
            advise_patience(view, report->sites[i]);
    const struct time_wait_peer *worst = view->peer_count ? &view->peers[0] : NULL;
    if (worst && worst->recent_active && !time_wait_is_timeout_driven(worst->site)) {
        advise_keeping(view, worst);
        advise_reuse(view, &report->kernel, worst);
    }
    advise_accepted(view, report);
}

// --- all of it ----------------------------------------------------------------------------------

static int by_peer_and_recency(const void *a, const void *b) {
    const struct report_destination *one = a, *other = b;
    int peers = memcmp(&one->peer, &other->peer, sizeof one->peer);
    return peers ? peers : most_recent_first(a, b);
}

static void add_destinations(struct time_wait_view *view, const struct report *report) {
    uint32_t count = report->destination_count;
    struct report_destination *sorted = must_allocate(count, sizeof *sorted);
    if (count)
        memcpy(sorted, report->destinations, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_peer_and_recency);
    view->peers = must_allocate(count, sizeof *view->peers);
    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || memcmp(&sorted[i - 1].peer, &sorted[i].peer, sizeof sorted[i].peer) != 0)
            view->peers[view->peer_count++] =
                (struct time_wait_peer){.peer = sorted[i].peer, .site = sorted[i].stack->site};
        struct time_wait_peer *peer = &view->peers[view->peer_count - 1];
        peer->active += sorted[i].active;
        peer->recent_active += sorted[i].recent_active;
        peer->recent_per_second += sorted[i].recent_per_second;
    }
    free(sorted);
    for (uint32_t i = 0; i < view->peer_count; i++)
        judge_ports(report, view->port_count, &view->peers[i]);
    qsort(view->peers, view->peer_count, sizeof *view->peers, busiest_first);
}

// A connect found no port, and yet these numbers show most of them free: they are of another
// network namespace than the process was in, or of a later time.
static bool is_contradicted(const struct time_wait_view *view, const struct report *report) {
    bool is_full = false;
    for (uint32_t i = 0; i < view->peer_count; i++)
        is_full = is_full || 2 * view->peers[i].share > 1;
    return view->port_count && exhausted_ports(report) && !is_full;
}

// Then they tell nothing of these destinations.
static void forget_kernel(struct time_wait_view *view) {
    view->is_contradicted = true;
    for (uint32_t i = 0; i < view->peer_count; i++) {
        struct time_wait_peer *peer = &view->peers[i];
        peer->time_wait = -1;
        peer->share = peer->needed_share = peer->seconds_left = -1;
        peer->is_reused = peer->would_be_reused = false;
    }
}

void time_wait_view(const struct report *report, struct time_wait_view *out) {
    *out = (struct time_wait_view){.port_count = port_count(&report->kernel)};
    add_destinations(out, report);
    if (is_contradicted(out, report))
        forget_kernel(out);
    for (uint32_t i = 0; i < report->site_count; i++) {
        out->active += report->sites[i]->active;
        out->recent_active += report->sites[i]->recent_active;
        out->recent_per_second += report->sites[i]->recent_per_second;
    }
    make_advice(out, report);
}

void time_wait_view_free(struct time_wait_view *view) {
    free(view->peers);
    for (uint32_t i = 0; i < view->advice_count; i++)
        free(view->advice[i]);
    free(view->advice);
}

bool time_wait_matters(const struct report *report, const struct time_wait_view *view) {
    for (uint32_t i = 0; view->port_count && i < view->peer_count; i++) {
        // Of the kernel's count, ours are at most those that we closed.
        const struct time_wait_peer *peer = &view->peers[i];
        uint64_t now = (uint64_t)peer->time_wait;
        if (2 * (peer->recent_active < now ? peer->recent_active : now) > view->port_count)
            return true;
    }
    return exhausted_ports(report) > 0;
}
