#include "report/facts.h"
#include "base/clock.h"
#include "base/sys.h"
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
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static int socket_option(int fd, int name) {
    int value = 0;
    unsigned bytes = sizeof value;
    return sys_getsockopt(fd, SOL_SOCKET, name, &value, &bytes) < 0 ? 0 : value;
}

static void look_at_kind(struct ledger_record *record, int fd) {
    if (record->family && record->type && record->protocol)
        return;
    record->family = (uint16_t)socket_option(fd, SO_DOMAIN);
    record->type = (uint16_t)socket_option(fd, SO_TYPE);
    record->protocol = (uint16_t)socket_option(fd, SO_PROTOCOL);
}

static void store_address(struct ledger_address *out, const struct sockaddr_in6 *address) {
    if (address->sin6_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        *out = (struct ledger_address){.family = ADDRESS_INET, .port = ntohs(in->sin_port)};
        memcpy(out->ip, &in->sin_addr, sizeof in->sin_addr);
    } else if (address->sin6_family == AF_INET6) {
        *out = (struct ledger_address){.family = ADDRESS_INET6,
                                       .port = ntohs(address->sin6_port),
                                       .scope_id = address->sin6_scope_id};
        memcpy(out->ip, &address->sin6_addr, sizeof address->sin6_addr);
    }
}

// Where the kernel does not say, what is known from connect or accept stands. SO_PEERNAME, and not
// getpeername: it also answers for a connection that was reset (inet_getname in
// net/ipv4/af_inet.c).
static void look_at_addresses(struct ledger_record *record, int fd) {
    struct sockaddr_in6 address = {0};
    unsigned bytes = sizeof address;
    if (sys_call(SYS_getsockname, fd, (long)&address, (long)&bytes, 0, 0, 0) == 0)
        store_address(&record->local, &address);
    address = (struct sockaddr_in6){0};
    bytes = record->family == AF_INET ? sizeof(struct sockaddr_in) : sizeof address;
    if (sys_getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &address, &bytes) == 0)
        store_address(&record->peer, &address);
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

// tcpi_last_ack_recv is the time since the last segment with an ACK, and each FIN has one: in
// CLOSE_WAIT that is the FIN, unless this side has sent data since, whose ACKs are later. Then the
// FIN is at least as old as the end of stream that the program read.
static void look_at_age(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                        const struct tcp_info *info) {
    uint64_t now = snapshot->taken_ns;
    bool told = record->error_ns || record->eof_ns;
    uint32_t told_ms = since_ms(record->error_ns ? record->error_ns : record->eof_ns, now);
    uint32_t age_ms = info->tcpi_last_ack_recv;
    if (snapshot->state == STATE_CLOSE && !told && !(record->flags & RECORD_SHUT_WR)) {
        age_ms = smaller(age_ms, smaller(info->tcpi_last_data_recv, info->tcpi_last_data_sent));
        snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
    } else if (told_ms > age_ms || snapshot->state == STATE_CLOSE) {
        age_ms = told ? told_ms : age_ms;
    }
    // The kernel counts in ticks of some milliseconds; no state is older than the socket.
    snapshot->state_age_ms =
        record->birth_ns ? smaller(age_ms, since_ms(record->birth_ns, now)) : age_ms;
}

// What poll(2) sees of the peer, for sockets whose state no option tells: POLLRDHUP where it is
// gone or has shut down its side, POLLHUP where both sides have. 0 where poll fails.
static int hangup_of(int fd) {
    struct pollfd poll = {.fd = fd, .events = POLLRDHUP};
    struct timespec at_once = {0};
    long count = sys_call(SYS_ppoll, (long)&poll, 1, (long)&at_once, 0, 0, 0);
    return count < 0 ? 0 : poll.revents & (POLLRDHUP | POLLHUP);
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
    memset(&info, 0, sizeof info);
    unsigned bytes = sizeof info;
    if (sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) < 0)
        return;
    snapshot->state = info.tcpi_state;
    if (record->protocol == IPPROTO_MPTCP)
        snapshot->state = mptcp_state(record, info.tcpi_state, fd);
    snapshot->last_data_sent_ms = info.tcpi_last_data_sent;
    snapshot->last_data_recv_ms = info.tcpi_last_data_recv;
    snapshot->flags |= SNAPSHOT_HAS_TCP_INFO;
    // Our SYN was acknowledged, data came, or a round trip was measured: it was ESTABLISHED once.
    if (info.tcpi_bytes_acked || info.tcpi_bytes_received || info.tcpi_rtt)
        snapshot->flags |= SNAPSHOT_WAS_CONNECTED;
    look_at_age(record, snapshot, &info);
}

// AF_UNIX has no states to ask for. Its nearest likeness: a peer that is gone is CLOSE_WAIT.
static void look_at_unix(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                         int fd) {
    int seen = hangup_of(fd);
    if (socket_option(fd, SO_ACCEPTCONN))
        snapshot->state = STATE_LISTEN;
    else if (seen & POLLRDHUP)
        snapshot->state = STATE_CLOSE_WAIT;
    else
        snapshot->state = seen & POLLHUP ? STATE_CLOSE : STATE_ESTABLISHED;
    // When it went is not known, unless the program was told: at the earliest, when it was opened.
    snapshot->state_age_ms =
        since_ms(record->eof_ns ? record->eof_ns : record->birth_ns, snapshot->taken_ns);
    if (record->eof_ns == 0)
        snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
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
        look_at_addresses(record, fd);
    }
    if (stream && snapshot.state != STATE_LISTEN)
        look_at_queues(record, &snapshot, fd);
    record->snapshot = snapshot;
}
