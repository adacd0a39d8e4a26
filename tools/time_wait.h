// TIME_WAIT: who closes first, towards whom, and how long the local ports last.
//
// TIME_WAIT is on the side that sends the first FIN (RFC 9293, 3.6), for 60 s (TCP_TIMEWAIT_LEN in
// include/net/tcp.h). On the side that also made the connection it takes one of the local ports of
// net.ipv4.ip_local_port_range, for that destination only.
#ifndef SOCKLEAK_TOOLS_TIME_WAIT_H
#define SOCKLEAK_TOOLS_TIME_WAIT_H

#include "model.h"
#include <sys/types.h>

// Asks the kernel what is in TIME_WAIT in the network namespace of this process: report->kernel.
// Returns 0 or -errno; then it stays "not known".
int time_wait_ask(struct report *report, pid_t pid);

// Whether it is worth asking: somebody wants to know, or so many closes that it may matter.
bool time_wait_is_likely(const struct report *report);

// Makes equal destinations one and sorts them. After sites_merge().
void time_wait_merge(struct report *report);

// --- what follows from it -----------------------------------------------------------------------

struct time_wait_peer { // a destination, over all call sites
    struct ledger_address peer;
    uint64_t active, recent_active; // closes
    double recent_per_second;
    int64_t time_wait;              // the kernel's count; -1 not known
    const struct report_site *site; // with the most recent ones
    double share;                   // of the local ports that are taken; < 0 not known
    double needed_share;            // at the present rate, once 60 s have passed
    double seconds_left;            // until none is left at this rate; < 0: enough for ever
    bool is_reused;                 // the kernel takes ports in TIME_WAIT again: tcp_tw_reuse
    bool would_be_reused;           // it would if that were set to 1
};

struct time_wait_view {
    struct time_wait_peer *peers; // most recent closes first
    uint32_t peer_count;
    uint64_t active, recent_active; // of all sites, also of accepted connections
    double recent_per_second;
    uint32_t port_count;  // 0 not known
    bool is_contradicted; // a connect found none free: the kernel's numbers say nothing of `peers`
    char **advice;        // plain sentences
    uint32_t advice_count;
};

// Free with time_wait_view_free().
void time_wait_view(const struct report *report, struct time_wait_view *out);
void time_wait_view_free(struct time_wait_view *view);

// Whether a report must speak of it unasked: TIME_WAIT of our own takes more than half of the local
// ports towards a destination, or a call returned EADDRNOTAVAIL.
bool time_wait_matters(const struct report *report, const struct time_wait_view *view);

// A client whose connections end because it runs out of patience: most of its closes came while the
// peer had not answered, or before there was a connection.
bool time_wait_is_timeout_driven(const struct report_site *site);

#endif
