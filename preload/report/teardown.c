#include "report/teardown.h"
#include "report/verdict.h"
#include <errno.h>
#include <sys/socket.h>

// What we sent longer than this before the last segment came was acknowledged by an earlier one: a
// round trip, and the delay of an ACK (RFC 9293, 3.8.6.3: less than 0.5 s).
enum {
    ACKNOWLEDGED_IN_MS = 1000
};

const char *teardown_step_name(enum teardown_step step) {
    static const char *const names[TEARDOWN_STEPS] = {
        [TEARDOWN_PEER_FIN] = "peer-fin",     [TEARDOWN_OUR_ACK] = "our-ack",
        [TEARDOWN_EOF_READ] = "eof-read",     [TEARDOWN_OUR_FIN] = "our-fin",
        [TEARDOWN_PEER_ACK] = "peer-ack",     [TEARDOWN_RESET] = "reset",
        [TEARDOWN_ERROR_READ] = "error-read", [TEARDOWN_OUR_CLOSE] = "our-close",
    };
    return (unsigned)step < TEARDOWN_STEPS ? names[step] : "unknown";
}

const char *teardown_time_name(enum teardown_time time) {
    switch (time) {
    case TEARDOWN_TIME_EXACT:
        return "exact";
    case TEARDOWN_TIME_NOT_AFTER:
        return "not-after";
    case TEARDOWN_TIME_UNKNOWN:
        break;
    }
    return "unknown";
}

static enum teardown_side side_of(enum teardown_step step) {
    switch (step) {
    case TEARDOWN_PEER_FIN:
    case TEARDOWN_PEER_ACK:
    case TEARDOWN_RESET:
        return TEARDOWN_FROM_PEER;
    case TEARDOWN_OUR_ACK:
    case TEARDOWN_OUR_FIN:
        return TEARDOWN_FROM_US;
    default:
        return TEARDOWN_IN_PROGRAM;
    }
}

static struct teardown_event *add(struct teardown *out, enum teardown_step step) {
    struct teardown_event *event = &out->events[out->count++];
    *event = (struct teardown_event){.step = step, .side = side_of(step), .happened = true};
    return event;
}

static void never(struct teardown *out, enum teardown_step step) {
    add(out, step)->happened = false;
}

static bool is_taken(const struct ledger_record *record) {
    return record->snapshot.flags & SNAPSHOT_TAKEN;
}

// --- which steps happened -----------------------------------------------------------------------

// Which FIN was the first one, where the kernel was asked for this very socket.
static uint16_t order_told(const struct ledger_record *record) {
    return record->flags & RECORD_FIN_ASSUMED
               ? 0
               : record->flags & (RECORD_FIN_FIRST | RECORD_FIN_SECOND);
}

static bool peer_fin_came(const struct ledger_record *record) {
    uint8_t state = is_taken(record) ? record->snapshot.state : STATE_UNKNOWN;
    if (state == STATE_FIN_WAIT1 || state == STATE_FIN_WAIT2)
        return false;
    if (record->eof_ns || (order_told(record) & RECORD_FIN_SECOND))
        return true;
    switch (state) {
    case STATE_CLOSE_WAIT:
    case STATE_LAST_ACK:
    case STATE_CLOSING:
    case STATE_TIME_WAIT:
        return true;
    case STATE_CLOSE: // after both FINs, or by a reset: see was_reset()
        return (record->flags & RECORD_SHUT_WR) && record->error == 0;
    default:
        return false;
    }
}

static bool our_fin_went(const struct ledger_record *record) {
    switch (is_taken(record) ? record->snapshot.state : STATE_UNKNOWN) {
    case STATE_ESTABLISHED:
    case STATE_CLOSE_WAIT:
        return false; // shut down by this side, it would be in another state
    default:
        return record->flags & RECORD_SHUT_WR;
    }
}

static bool our_fin_was_acknowledged(const struct ledger_record *record) {
    switch (is_taken(record) ? record->snapshot.state : STATE_UNKNOWN) {
    case STATE_FIN_WAIT2:
    case STATE_TIME_WAIT:
        return true;
    case STATE_CLOSE:
        return our_fin_went(record) && record->error == 0;
    default:
        return false;
    }
}

// CLOSE without both FINs. A CLOSE that never was a connection is no teardown.
static bool was_reset(const struct ledger_record *record) {
    if (record->error)
        return true;
    if (!is_taken(record) || record->snapshot.state != STATE_CLOSE || verdict_died_unseen(record))
        return false;
    bool connected =
        (record->flags & RECORD_CONNECTED) || (record->snapshot.flags & SNAPSHOT_WAS_CONNECTED);
    return connected && !(record->flags & RECORD_SHUT_WR);
}

static enum teardown_first who_was_first(const struct ledger_record *record) {
    bool peers = peer_fin_came(record), ours = our_fin_went(record);
    // Where nobody has looked at the kernel's state, a FIN that the program was not told of may
    // have come.
    if (!peers && !ours)
        return is_taken(record) && !verdict_died_unseen(record) ? TEARDOWN_FIRST_NOBODY
                                                                : TEARDOWN_FIRST_UNKNOWN;
    if (!ours)
        return TEARDOWN_FIRST_PEER;
    if ((!peers && is_taken(record) && record->snapshot.state != STATE_UNKNOWN) ||
        (order_told(record) & RECORD_FIN_FIRST))
        return TEARDOWN_FIRST_US;
    if ((order_told(record) & RECORD_FIN_SECOND) ||
        (record->eof_ns && record->eof_ns < record->shutdown_ns) ||
        (is_taken(record) && record->snapshot.state == STATE_LAST_ACK))
        return TEARDOWN_FIRST_PEER;
    // A FIN of the peer's that is still to be acknowledged together with ours: both at once.
    if (is_taken(record) && record->snapshot.state == STATE_CLOSING)
        return TEARDOWN_FIRST_US;
    return TEARDOWN_FIRST_UNKNOWN;
}

// --- when ---------------------------------------------------------------------------------------

static void at(struct teardown_event *event, enum teardown_time time, uint64_t ns) {
    if (ns == 0)
        return;
    event->time = time;
    event->ns = ns;
}

static uint64_t before(uint64_t ns, uint32_t ms) {
    uint64_t age_ns = (uint64_t)ms * 1000000;
    return ns > age_ns ? ns - age_ns : 0;
}

// The snapshot's age of CLOSE_WAIT is that of the last segment that came: of the FIN, unless this
// side has sent since, and was acknowledged by it.
static void time_peer_fin(const struct ledger_record *record, struct teardown_event *event) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    if (record->fin_ns) {
        at(event,
           record->flags & RECORD_FIN_IS_BOUND ? TEARDOWN_TIME_NOT_AFTER : TEARDOWN_TIME_EXACT,
           record->fin_ns);
    } else if (is_taken(record) && snapshot->state == STATE_CLOSE_WAIT &&
               !(snapshot->flags & SNAPSHOT_AGE_IS_BOUND) &&
               (snapshot->flags & SNAPSHOT_HAS_TCP_INFO)) {
        bool silent_since =
            !(snapshot->flags & SNAPSHOT_DATA_SENT) ||
            snapshot->last_data_sent_ms >= (uint64_t)snapshot->state_age_ms + ACKNOWLEDGED_IN_MS;
        uint64_t ns = before(snapshot->taken_ns, snapshot->state_age_ms);
        if (record->eof_ns && ns > record->eof_ns)
            at(event, TEARDOWN_TIME_NOT_AFTER, record->eof_ns);
        else
            at(event, silent_since ? TEARDOWN_TIME_EXACT : TEARDOWN_TIME_NOT_AFTER, ns);
    } else {
        at(event, TEARDOWN_TIME_NOT_AFTER, record->eof_ns);
    }
}

bool teardown_fin_is_bound(const struct ledger_record *record) {
    struct teardown_event fin = {0};
    time_peer_fin(record, &fin);
    return fin.time == TEARDOWN_TIME_NOT_AFTER;
}

// --- the steps ----------------------------------------------------------------------------------

// A state that follows from the order of the FINs.
static uint8_t known(const struct teardown *out, enum ledger_tcp_state state) {
    return (uint8_t)(out->first == TEARDOWN_FIRST_UNKNOWN ? STATE_UNKNOWN : state);
}

static void add_peer_fin(const struct ledger_record *record, bool is_first, struct teardown *out) {
    struct teardown_event *fin = add(out, TEARDOWN_PEER_FIN);
    time_peer_fin(record, fin);
    fin->state = known(out, is_first ? STATE_CLOSE_WAIT : STATE_TIME_WAIT);
    struct teardown_event *ack = add(out, TEARDOWN_OUR_ACK); // tcp_fin() in net/ipv4/tcp_input.c
    ack->time = fin->time;
    ack->ns = fin->ns;
}

static void add_eof(const struct ledger_record *record, struct teardown *out) {
    if (record->eof_ns == 0)
        return;
    struct teardown_event *event = add(out, TEARDOWN_EOF_READ);
    at(event, TEARDOWN_TIME_EXACT, record->eof_ns);
    event->call = record->eof_call;
    event->stack = record->eof_stack;
    event->thread = record->eof_tid;
}

static void add_our_fin(const struct ledger_record *record, bool is_first, struct teardown *out) {
    struct teardown_event *fin = add(out, TEARDOWN_OUR_FIN);
    at(fin, TEARDOWN_TIME_EXACT, record->shutdown_ns);
    fin->call = CALL_SHUTDOWN;
    fin->stack = record->shutdown_stack;
    fin->state = known(out, is_first ? STATE_FIN_WAIT1 : STATE_LAST_ACK);
}

static void add_peer_ack(const struct ledger_record *record, bool is_first, struct teardown *out) {
    if (our_fin_was_acknowledged(record))
        add(out, TEARDOWN_PEER_ACK)->state =
            is_first ? known(out, STATE_FIN_WAIT2) : (uint8_t)STATE_CLOSE;
    else if (!record->error && is_taken(record))
        never(out, TEARDOWN_PEER_ACK);
}

static void add_reset(const struct ledger_record *record, struct teardown *out) {
    if (!was_reset(record))
        return;
    struct teardown_event *reset = add(out, TEARDOWN_RESET);
    reset->state = STATE_CLOSE;
    at(reset, TEARDOWN_TIME_NOT_AFTER, record->error_ns);
    if (record->error == 0)
        return;
    struct teardown_event *told = add(out, TEARDOWN_ERROR_READ);
    at(told, TEARDOWN_TIME_EXACT, record->error_ns);
    told->call = record->error_call;
    told->error = record->error;
    told->stack = record->error_stack;
}

static bool is_connection(const struct ledger_record *record) {
    return record->type == SOCK_STREAM &&
           (record->family == AF_INET || record->family == AF_INET6) &&
           !(is_taken(record) && record->snapshot.state == STATE_LISTEN);
}

void teardown_of(const struct ledger_record *record, struct teardown *out) {
    *out = (struct teardown){.first = TEARDOWN_FIRST_NOBODY};
    if (!is_connection(record))
        return;
    bool peers = peer_fin_came(record), ours = our_fin_went(record);
    out->first = who_was_first(record);
    // Where the order is not known, that of what the program did and was told.
    bool we_began = out->first == TEARDOWN_FIRST_US ||
                    (out->first == TEARDOWN_FIRST_UNKNOWN && record->eof_ns > record->shutdown_ns);
    if (ours && we_began) {
        add_our_fin(record, true, out);
        add_peer_ack(record, true, out);
    }
    if (peers) {
        add_peer_fin(record, !we_began, out);
        add_eof(record, out);
    }
    if (ours && !we_began) {
        add_our_fin(record, false, out);
        add_peer_ack(record, false, out);
    }
    add_reset(record, out);
    if (!out->count)
        return;
    if (!peers && !was_reset(record) && is_taken(record))
        never(out, TEARDOWN_PEER_FIN);
    if (!ours && !was_reset(record))
        never(out, TEARDOWN_OUR_FIN);
    never(out, TEARDOWN_OUR_CLOSE);
}
