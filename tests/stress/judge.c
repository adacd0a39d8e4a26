#include "judge.h"
#include "report/verdict.h"
#include <poll.h>
#include <sys/socket.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

#define BIT(verdict) (1u << (verdict))

enum {
    CLOSE_WAIT_GROUP =
        BIT(VERDICT_EOF_IGNORED) | BIT(VERDICT_FIN_UNREAD) | BIT(VERDICT_DATA_UNREAD),
    DEAD_GROUP = BIT(VERDICT_RESET_UNCLOSED) | BIT(VERDICT_SHUTDOWN_UNCLOSED),
    LEAKS = CLOSE_WAIT_GROUP | DEAD_GROUP,
};

// --- end of stream ------------------------------------------------------------------------------

static bool peer_sent_fin(int state) {
    return state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK || state == STATE_CLOSING ||
           state == STATE_TIME_WAIT || state == STATE_CLOSE;
}

bool judge_end_of_stream(const struct known *known, const struct look *look) {
    if (look->type != SOCK_STREAM || known->shut_rd)
        return false;
    return look->domain == AF_UNIX ? (look->hangup & (POLLRDHUP | POLLHUP)) != 0
                                   : peer_sent_fin(look->state);
}

// --- state --------------------------------------------------------------------------------------

// AF_UNIX has none: the nearest likeness, from poll(2). unix_poll() in net/unix/af_unix.c says
// POLLRDHUP where somebody has ended what this side reads, its own shutdown included, and POLLHUP
// where both directions are ended, or the socket was never connected.
static unsigned unix_states(const struct known *known, const struct look *look) {
    bool read_ended = look->hangup & POLLRDHUP, both_ended = look->hangup & POLLHUP;
    if (look->listening)
        return BIT(STATE_LISTEN);
    if (!read_ended)
        return BIT(both_ended ? STATE_CLOSE : STATE_ESTABLISHED);
    if (!known->shut_rd)
        return BIT(STATE_CLOSE_WAIT);
    if (!both_ended)
        return BIT(STATE_ESTABLISHED); // nothing says that the peer has gone
    return BIT(known->shut_wr ? STATE_CLOSE : STATE_CLOSE_WAIT); // both by its own shutdown
}

unsigned judge_states(const struct known *known, const struct look *look) {
    if (look->type != SOCK_STREAM)
        return BIT(STATE_UNKNOWN);
    return look->domain == AF_UNIX ? unix_states(known, look) : BIT(look->state);
}

// --- verdict ------------------------------------------------------------------------------------

static unsigned of_close_wait(const struct known *known, const struct look *look) {
    if (look->domain != AF_UNIX && look->out > 0)
        return BIT(VERDICT_OPEN); // a half-close that still answers
    unsigned not_told = BIT(look->in ? VERDICT_DATA_UNREAD : VERDICT_FIN_UNREAD);
    if (known->told_unclear)
        return not_told | BIT(VERDICT_EOF_IGNORED);
    return known->end_of_stream ? BIT(VERDICT_EOF_IGNORED) : not_told;
}

static unsigned of_close(const struct known *known, const struct look *look) {
    // ECONNRESET and EPIPE come from a connection; a connect that failed since has made the kernel
    // forget it (tcp_disconnect in net/ipv4/tcp.c).
    bool was_connected = known->connected || look->moved_data || known->told_reset ||
                         known->end_of_stream ||
                         (look->domain == AF_UNIX && (look->hangup & POLLRDHUP));
    if (known->told_unclear)
        return DEAD_GROUP | BIT(VERDICT_NEVER_CONNECTED);
    if (!was_connected)
        return BIT(VERDICT_NEVER_CONNECTED);
    bool was_reset = (look->hangup & POLLERR) && look->domain != AF_UNIX;
    if (known->told_error || !known->shut_wr || was_reset)
        return BIT(VERDICT_RESET_UNCLOSED);
    // A send may have been told of a reset, or another process that has it, too.
    return DEAD_GROUP;
}

static unsigned of_state(const struct known *known, const struct look *look, int state) {
    switch (state) {
    case STATE_CLOSE_WAIT:
        return of_close_wait(known, look);
    case STATE_CLOSE:
        return of_close(known, look);
    case STATE_LAST_ACK:
    case STATE_TIME_WAIT:
    case STATE_CLOSING:
        return BIT(VERDICT_SHUTDOWN_UNCLOSED);
    case STATE_FIN_WAIT1:
    case STATE_FIN_WAIT2:
        return BIT(VERDICT_FIN_WAIT);
    case STATE_LISTEN:
        return BIT(VERDICT_NOT_JUDGED);
    default:
        return BIT(VERDICT_OPEN);
    }
}

// Nobody saw it come: it may be the parent's.
static bool was_found(const struct known *known) {
    for (int i = 0; i < known->origin_count; i++)
        if (known->origins[i].provenance == PROVENANCE_FOUND)
            return true;
    return known->origin_count == 0;
}

unsigned judge_verdicts(const struct known *known, const struct look *look, bool parent_has_it) {
    if (look->type != SOCK_STREAM)
        return BIT(VERDICT_NOT_JUDGED);
    unsigned states = judge_states(known, look), verdicts = 0;
    for (int state = 0; state <= STATE_CLOSING; state++)
        if (states & BIT(state))
            verdicts |= of_state(known, look, state);
    if (!(verdicts & LEAKS) || !parent_has_it)
        return verdicts;
    bool unclear = known->told_unclear || known->origin_unclear || known->origin_count > 1;
    bool parents = known->is_parents || was_found(known);
    if (unclear)
        return verdicts | BIT(VERDICT_OPEN);
    return parents ? (verdicts & ~(unsigned)LEAKS) | BIT(VERDICT_OPEN) : verdicts;
}
