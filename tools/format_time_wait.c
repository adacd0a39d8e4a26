// TIME_WAIT as a section of the text report.
#include "format.h"
#include "format_sections.h"
#include "report/text.h"
#include "time_wait.h"
#include <string.h>

enum {
    SITES_MAX = 10,
    PEERS_MAX = 10,
    PLACE_BYTES = 512
};

static void write_head(const struct report *report, const struct time_wait_view *view,
                       struct text_lines *lines, uint32_t pid) {
    const struct report_kernel *kernel = &report->kernel;
    text_lines_say(lines, pid,
                   "TIME_WAIT: this side closed first %llu times in the last 60 s (%.1f a second); "
                   "each leaves TIME_WAIT here for 60 s",
                   (unsigned long long)view->recent_active, view->recent_per_second);
    if (!kernel->is_known)
        text_lines_say(lines, pid,
                       "  the kernel's count and its local ports are not known: ask "
                       "while it runs (sockleak dump --time-wait PID)");
    else if (view->port_count)
        text_lines_say(lines, pid,
                       "  the kernel has %llu sockets in TIME_WAIT now; local ports for each "
                       "destination: %u (net.ipv4.ip_local_port_range %u-%u)",
                       (unsigned long long)kernel->time_wait, view->port_count, kernel->first_port,
                       kernel->last_port);
    else
        text_lines_say(lines, pid, "  the kernel has %llu sockets in TIME_WAIT now",
                       (unsigned long long)kernel->time_wait);
}

static void write_doubt(const struct time_wait_view *view, struct text_lines *lines, uint32_t pid) {
    if (view->is_contradicted)
        text_lines_say(lines, pid,
                       "  and yet a connect found none free: in another network namespace, or "
                       "before (sockleak dump --time-wait PID asks in that of a live process)");
}

static void write_sites(const struct report *report, struct text_lines *lines, uint32_t pid) {
    uint32_t shown = 0;
    char place[PLACE_BYTES];
    for (uint32_t i = 0; i < report->site_count; i++) {
        const struct report_site *site = report->sites[i];
        if (!site->active && !time_wait_is_timeout_driven(site))
            continue;
        if (shown++ >= SITES_MAX)
            continue;
        format_place(site->stack, place, sizeof place);
        const char *about = site->is_sampled ? "about " : "";
        text_lines_say(lines, pid, "  %s   %s%llu in the last 60 s, %s%llu in all%s", place, about,
                       (unsigned long long)site->recent_active, about,
                       (unsigned long long)site->active,
                       time_wait_is_timeout_driven(site) ? "   driven by timeouts" : "");
        if (!site->close_stack)
            continue;
        format_place(site->close_stack, place, sizeof place);
        text_lines_say(lines, pid, "    closed by %s", place);
    }
    if (shown > SITES_MAX)
        text_lines_say(lines, pid, "  ... and %u more call sites", shown - SITES_MAX);
}

static void write_peer(const struct time_wait_peer *peer, uint32_t ports, struct text_lines *lines,
                       uint32_t pid) {
    char memory[80], in_kernel[80] = "", range[160] = "";
    struct text_buffer address = text_buffer(memory, sizeof memory);
    text_address(&address, &peer->peer);
    if (peer->time_wait >= 0)
        snprintf(in_kernel, sizeof in_kernel, ", %lld in TIME_WAIT now",
                 (long long)peer->time_wait);
    if (peer->share >= 0 && peer->seconds_left < 0)
        snprintf(range, sizeof range,
                 ": %.1f %% of the ports, and at this rate never more than %.1f %%",
                 100 * peer->share, 100 * peer->needed_share);
    else if (peer->share >= 0)
        snprintf(range, sizeof range,
                 ": %.1f %% of the ports, and at this rate the last of %u is taken in %.0f s%s",
                 100 * peer->share, ports, peer->seconds_left,
                 peer->is_reused ? " (but tcp_tw_reuse takes them again)" : "");
    text_lines_say(lines, pid, "  to %s   %llu in the last 60 s (%.1f a second)%s%s", memory,
                   (unsigned long long)peer->recent_active, peer->recent_per_second, in_kernel,
                   range);
}

bool format_time_wait(const struct report *report, struct text_lines *lines, uint32_t pid,
                      bool is_asked_for) {
    struct time_wait_view view;
    time_wait_view(report, &view);
    bool is_told = is_asked_for || time_wait_matters(report, &view);
    if (is_told) {
        text_lines_gap(lines, pid);
        write_head(report, &view, lines, pid);
        write_doubt(&view, lines, pid);
        write_sites(report, lines, pid);
        for (uint32_t i = 0; i < view.peer_count && i < PEERS_MAX; i++)
            write_peer(&view.peers[i], view.port_count, lines, pid);
        if (view.peer_count > PEERS_MAX)
            text_lines_say(lines, pid, "  ... and %u more destinations",
                           view.peer_count - PEERS_MAX);
        for (uint32_t i = 0; i < view.advice_count; i++)
            text_lines_say(lines, pid, "  advice: %s", view.advice[i]);
    }
    time_wait_view_free(&view);
    return is_told;
}
