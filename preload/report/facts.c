#include "report/facts.h"
#include "base/clock.h"
#include "base/sys.h"
#include "base/tcp.h"
#include "track/addresses.h"
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

static int socket_option(int fd, int name) {
    int value = 0;
    unsigned bytes = sizeof value;
    return sys_getsockopt(fd, SOL_SOCKET, name, &value, &bytes) < 0 ? 0 : value;
}

static void look_at_kind(struct ledger_record *record, int fd) {
    // Asked also where it seems known: accept takes it over from the listener's record, which is
    // another socket's where something went past us. A refusal (0) changes nothing.
    int domain = socket_option(fd, SO_DOMAIN), type = socket_option(fd, SO_TYPE);
    int protocol = socket_option(fd, SO_PROTOCOL);
    record->family = domain ? (uint16_t)domain : record->family;
    record->type = type ? (uint16_t)type : record->type;
    record->protocol = protocol ? (uint16_t)protocol : record->protocol;
}

// Some seccomp filters refuse getsockopt, and then nothing says whether this is a leak. A TCP
// socket always has a protocol.
bool facts_are_missing(const struct ledger_record *record) {
    bool inet = record->family == AF_INET || record->family == AF_INET6;
    bool tcp = record->protocol == 0 || record->protocol == IPPROTO_TCP;
    return record->family == 0 || record->type == 0 ||
           (inet && record->type == SOCK_STREAM && tcp &&
            !(record->snapshot.flags & SNAPSHOT_HAS_TCP_INFO));
}

static void look_at_queues(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                           int fd) {
    int in = 0, out = 0;
    if (sys_call(SYS_ioctl, fd, SIOCINQ, (long)&in, 0, 0, 0) < 0 ||
        sys_call(SYS_ioctl, fd, SIOCOUTQ, (long)&out, 0, 0, 0) < 0)
        return;
    // MPTCP counts the DATA_FIN, also when it was read (mptcp_inq_hint in net/mptcp/protocol.c).
    if (record->protocol == IPPROTO_MPTCP && snapshot->state == STATE_CLOSE_WAIT && in > 0)
        in--;
    snapshot->recv_queue_bytes = (uint32_t)in;
    snapshot->send_queue_bytes = (uint32_t)out;
    snapshot->flags |= SNAPSHOT_HAS_QUEUES;
}

static uint32_t since_ms(uint64_t then_ns, uint64_t now_ns) {
    uint64_t ms = then_ns && then_ns < now_ns ? (now_ns - then_ns) / 1000000 : 0;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX; // after 49 days
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

// tcpi_last_ack_recv is the time since the last segment with an ACK, and each FIN has one: in
// CLOSE_WAIT that is the FIN, unless this side has sent data since, whose ACKs are later. Then the
// FIN is at least as old as the end of stream that the program read.
static uint32_t close_wait_ms(const struct ledger_record *record, const struct tcp_info *info,
                              uint64_t now) {
    uint32_t fin_ms = record->fin_ns ? since_ms(record->fin_ns, now) : info->tcpi_last_ack_recv;
    return larger(fin_ms, since_ms(record->eof_ns, now));
}

// What ended with both FINs did so with the later one, or with the ACK of ours. An error, at the
// latest, when the program was told of it; one that it was not told of since the last sign of life
// at most. An end of stream that was read tells nothing here: that is no end of the connection.
static uint32_t dead_ms(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                        const struct tcp_info *info) {
    if (record->error_ns)
        return since_ms(record->error_ns, snapshot->taken_ns);
    if ((record->flags & RECORD_SHUT_WR) && !(snapshot->flags & SNAPSHOT_ERROR_PENDING))
        return info->tcpi_last_ack_recv;
    snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
    return smaller(info->tcpi_last_ack_recv,
                   smaller(info->tcpi_last_data_recv, info->tcpi_last_data_sent));
}

static void look_at_age(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                        const struct tcp_info *info) {
    uint64_t now = snapshot->taken_ns;
    uint32_t age_ms = info->tcpi_last_ack_recv;
    if (snapshot->state == STATE_CLOSE)
        age_ms = dead_ms(record, snapshot, info);
    else if (snapshot->state == STATE_CLOSE_WAIT)
        age_ms = close_wait_ms(record, info, now);
    // The kernel counts in ticks of some milliseconds; no state is older than the socket.
    snapshot->state_age_ms =
        record->birth_ns ? smaller(age_ms, since_ms(record->birth_ns, now)) : age_ms;
}

// What poll(2) sees of the peer, for sockets whose state no option tells: POLLRDHUP where it is
// gone or has shut down its side, POLLHUP where both sides have. 0 where poll fails.
static int hangup_of(int fd) {
    int seen = sys_poll_at_once(fd, POLLRDHUP);
    return seen < 0 ? 0 : seen & (POLLRDHUP | POLLHUP);
}

// TCP_INFO of an MPTCP socket is its first subflow's, which lives on when the peer ends the
// connection by a DATA_FIN (RFC 8684 section 3.3.3). The connection's own end is seen by poll, as
// is this side's own shutdown, which then hides it.
static uint8_t mptcp_state(const struct ledger_record *record, uint8_t subflow_state, int fd) {
    if (subflow_state == STATE_LISTEN || (record->flags & RECORD_SHUT_RD))
        return subflow_state;
    int hangup = hangup_of(fd);
    if (hangup & POLLHUP)
        return STATE_CLOSE;
    return hangup & POLLRDHUP ? STATE_CLOSE_WAIT : subflow_state;
}

static void look_at_tcp(struct ledger_record *record, struct ledger_snapshot *snapshot, int fd) {
    struct tcp_info info;
    if (!tcp_info_of(fd, &info))
        return;
    snapshot->state = info.tcpi_state;
    if (record->protocol == IPPROTO_MPTCP)
        snapshot->state = mptcp_state(record, info.tcpi_state, fd);
    if (snapshot->state == STATE_CLOSE && tcp_has_pending_error(fd))
        snapshot->flags |= SNAPSHOT_ERROR_PENDING;
    snapshot->last_data_sent_ms = info.tcpi_last_data_sent;
    snapshot->last_data_recv_ms = info.tcpi_last_data_recv;
    snapshot->flags |= SNAPSHOT_HAS_TCP_INFO;
    // Our SYN was acknowledged, data came, or a round trip was measured: it was ESTABLISHED once.
    if (info.tcpi_bytes_acked || info.tcpi_bytes_received || info.tcpi_rtt)
        snapshot->flags |= SNAPSHOT_WAS_CONNECTED;
    // Since Linux 4.6; the counters of bytes include the SYN and the FIN.
    if (info.tcpi_data_segs_out)
        snapshot->flags |= SNAPSHOT_DATA_SENT;
    if (info.tcpi_data_segs_in)
        snapshot->flags |= SNAPSHOT_DATA_RECEIVED;
    look_at_age(record, snapshot, &info);
}

// poll tells that a direction has ended, and not who ended it (unix_poll and unix_shutdown in
// net/unix/af_unix.c): POLLRDHUP is also this side's own shutdown(SHUT_RD), and with POLLHUP its
// own SHUT_RDWR, after which the peer can send no more either. POLLHUP alone was never connected.
static uint8_t unix_state(const struct ledger_record *record, int hangup) {
    bool read_ended = hangup & POLLRDHUP, both_ended = hangup & POLLHUP;
    if (!read_ended)
        return both_ended ? STATE_CLOSE : STATE_ESTABLISHED;
    if (!(record->flags & RECORD_SHUT_RD))
        return STATE_CLOSE_WAIT;
    if (!both_ended)
        return STATE_ESTABLISHED;
    return record->flags & RECORD_SHUT_WR ? STATE_CLOSE : STATE_CLOSE_WAIT;
}

// AF_UNIX has no states to ask for. Its nearest likeness: a peer that is gone is CLOSE_WAIT.
static void look_at_unix(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                         int fd) {
    int seen = hangup_of(fd);
    snapshot->state =
        socket_option(fd, SO_ACCEPTCONN) ? (uint8_t)STATE_LISTEN : unix_state(record, seen);
    if (seen & POLLRDHUP)
        snapshot->flags |= SNAPSHOT_WAS_CONNECTED;
    // When it went is not known, unless the program was told: at the earliest, when it was opened.
    snapshot->state_age_ms =
        since_ms(record->eof_ns ? record->eof_ns : record->birth_ns, snapshot->taken_ns);
    if (record->eof_ns == 0)
        snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
}

// A property is noted where it is known, and set where it holds.
static void property(struct ledger_snapshot *snapshot, unsigned property, long answer, bool holds) {
    if (answer < 0)
        return;
    snapshot->properties_known |= (uint8_t)property;
    if (holds)
        snapshot->properties |= (uint16_t)property;
}

static long ask_number(int fd, int level, int name, int *value) {
    unsigned bytes = sizeof *value;
    *value = 0;
    return sys_getsockopt(fd, level, name, value, &bytes);
}

// 5 system calls.
void facts_look_at_properties(struct ledger_record *record) {
    struct ledger_snapshot *snapshot = &record->snapshot;
    int fd = record->first_fd, keepalive, user_timeout;
    struct timeval limit = {0};
    unsigned bytes = sizeof limit;
    snapshot->properties = snapshot->properties_known = 0;
    long flags = sys_call(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0);
    property(snapshot, PROPERTY_NO_CLOEXEC, flags, !(flags & FD_CLOEXEC));
    flags = sys_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);
    bool blocking = flags >= 0 && !(flags & O_NONBLOCK);
    property(snapshot, PROPERTY_BLOCKING_MODE, flags, blocking);
    if (flags >= 0) {
        long answer = sys_getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &bytes);
        property(snapshot, PROPERTY_NO_READ_TIMEOUT, answer,
                 blocking && limit.tv_sec == 0 && limit.tv_usec == 0);
    }
    if (record->family != AF_UNIX) {
        long answer = ask_number(fd, SOL_SOCKET, SO_KEEPALIVE, &keepalive);
        bool is_tcp = ask_number(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout) == 0;
        property(snapshot, PROPERTY_NO_KEEPALIVE, answer, !keepalive && !(is_tcp && user_timeout));
    }
    if (snapshot->flags & SNAPSHOT_HAS_QUEUES)
        property(snapshot, PROPERTY_UNREAD_DATA, 0, snapshot->recv_queue_bytes > 0);
}

void facts_look_at(struct ledger_record *record) {
    int fd = record->first_fd;
    struct ledger_snapshot snapshot = {.taken_ns = clock_now_ns(), .flags = SNAPSHOT_TAKEN};
    look_at_kind(record, fd);
    bool stream = record->type == SOCK_STREAM;
    if (stream && record->family == AF_UNIX)
        look_at_unix(record, &snapshot, fd);
    if (record->family == AF_INET || record->family == AF_INET6) {
        if (stream)
            look_at_tcp(record, &snapshot, fd);
        address_ask(record, fd);
    }
    if (stream && snapshot.state != STATE_LISTEN)
        look_at_queues(record, &snapshot, fd);
    record->snapshot = snapshot;
}
