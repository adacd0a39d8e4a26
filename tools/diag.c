#include "diag.h"
#include "base/clock.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ANSWER_BYTES = 64 << 10,
    TRIES = 3, // a dump that the kernel says was torn (EINTR) is asked for again
    // When the kernel looked is known to within this, or it is asked again. More than that passes
    // only where another process had its turn meanwhile.
    SLACK_NS = 5 * 1000 * 1000
};

// --- one answer ---------------------------------------------------------------------------------

static void address_of(struct ledger_address *out, int family, const void *ip, uint16_t port,
                       uint32_t interface) {
    *out = (struct ledger_address){.port = ntohs(port)};
    if (family == AF_INET) {
        out->family = ADDRESS_INET;
        memcpy(out->ip, ip, 4);
        return;
    }
    out->family = ADDRESS_INET6;
    memcpy(out->ip, ip, 16);
    if (out->ip[0] == 0xfe && (out->ip[1] & 0xc0) == 0x80) // link-local: else it means nothing
        out->scope_id = interface;
}

static void info_of(struct diag_socket *out, const struct nlattr *attribute) {
    // An older kernel's is shorter, a newer one's longer.
    struct tcp_info info;
    memset(&info, 0, sizeof info);
    size_t len = mnl_attr_get_payload_len(attribute);
    memcpy(&info, mnl_attr_get_payload(attribute), len < sizeof info ? len : sizeof info);
    out->has_info = true;
    out->last_ack_recv_ms = info.tcpi_last_ack_recv;
    out->last_data_recv_ms = info.tcpi_last_data_recv;
    out->last_data_sent_ms = info.tcpi_last_data_sent;
    out->bytes_acked = info.tcpi_bytes_acked;
    out->bytes_received = info.tcpi_bytes_received;
    out->data_segments_out = info.tcpi_data_segs_out;
    out->data_segments_in = info.tcpi_data_segs_in;
}

static int on_attribute(const struct nlattr *attribute, void *context) {
    if (mnl_attr_get_type(attribute) == INET_DIAG_INFO)
        info_of(context, attribute);
    return MNL_CB_OK;
}

static int append(struct diag_table *table, size_t *room, const struct diag_socket *socket) {
    if (table->count == *room) {
        size_t wanted = *room ? *room * 2 : 64;
        struct diag_socket *more = realloc(table->sockets, wanted * sizeof *more);
        if (!more)
            return -ENOMEM;
        table->sockets = more;
        *room = wanted;
    }
    table->sockets[table->count++] = *socket;
    return 0;
}

struct diag_link {
    struct mnl_socket *netlink;
};

struct reading {
    struct diag_table *table;
    uint64_t sampled_ns; // when the kernel looked at the sockets of the answer that is read,
    uint64_t slack_ns;   // or as much earlier
    size_t room;
    int error;
};

static void socket_of(struct diag_socket *out, const struct nlmsghdr *header) {
    const struct inet_diag_msg *message = mnl_nlmsg_get_payload(header);
    *out = (struct diag_socket){
        .family = message->idiag_family,
        .id = message->id,
        .inode = message->idiag_inode,
        .uid = message->idiag_uid,
        .recv_queue_bytes = message->idiag_rqueue,
        .send_queue_bytes = message->idiag_wqueue,
        .state = message->idiag_state,
    };
    const struct inet_diag_sockid *id = &message->id;
    address_of(&out->local, message->idiag_family, id->idiag_src, id->idiag_sport, id->idiag_if);
    address_of(&out->peer, message->idiag_family, id->idiag_dst, id->idiag_dport, id->idiag_if);
    if (out->state == STATE_CLOSE_WAIT) {
        out->fin_read = out->recv_queue_bytes == 0;
        out->recv_queue_bytes -= !out->fin_read;
    }
    mnl_attr_parse(header, sizeof *message, on_attribute, out);
}

static bool is_whole(const struct nlmsghdr *header) {
    return mnl_nlmsg_get_payload_len(header) >= sizeof(struct inet_diag_msg);
}

static int on_message(const struct nlmsghdr *header, void *context) {
    struct reading *reading = context;
    struct diag_socket socket;
    if (!is_whole(header))
        return MNL_CB_OK;
    socket_of(&socket, header);
    socket.sampled_ns = reading->sampled_ns;
    socket.slack_ns = reading->slack_ns;
    reading->error = append(reading->table, &reading->room, &socket);
    return reading->error < 0 ? MNL_CB_ERROR : MNL_CB_OK;
}

// --- asking -------------------------------------------------------------------------------------

static int request(struct mnl_socket *netlink, uint8_t family, uint32_t sequence) {
    char buffer[256] __attribute__((aligned(8)));
    struct nlmsghdr *header = mnl_nlmsg_put_header(buffer);
    header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    header->nlmsg_seq = sequence;
    struct inet_diag_req_v2 *ask = mnl_nlmsg_put_extra_header(header, sizeof *ask);
    ask->sdiag_family = family;
    ask->sdiag_protocol = IPPROTO_TCP;
    ask->idiag_ext = 1 << (INET_DIAG_INFO - 1);
    ask->idiag_states = UINT32_MAX;
    return mnl_socket_sendto(netlink, header, header->nlmsg_len) < 0 ? -errno : 0;
}

// The kernel prepares the first answer when it is asked, and each further one when the one before
// it is received (netlink_dump() in net/netlink/af_netlink.c).
static int read_family(struct mnl_socket *netlink, uint8_t family, uint32_t sequence,
                       struct reading *reading) {
    static char buffer[ANSWER_BYTES] __attribute__((aligned(8)));
    uint64_t asked_ns = clock_now_ns();
    int error = request(netlink, family, sequence);
    reading->sampled_ns = clock_now_ns();
    reading->slack_ns = reading->sampled_ns - asked_ns;
    int state = MNL_CB_OK;
    while (error == 0 && state == MNL_CB_OK) {
        asked_ns = clock_now_ns();
        ssize_t len = mnl_socket_recvfrom(netlink, buffer, sizeof buffer);
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            return -errno;
        uint64_t received_ns = clock_now_ns();
        state = mnl_cb_run(buffer, (size_t)len, sequence, mnl_socket_get_portid(netlink),
                           on_message, reading);
        reading->sampled_ns = received_ns;
        reading->slack_ns = received_ns - asked_ns;
        if (state == MNL_CB_ERROR)
            error = reading->error < 0 ? reading->error : -errno;
    }
    return error;
}

static int by_inode(const void *left, const void *right) {
    const struct diag_socket *a = left, *b = right;
    return (a->inode > b->inode) - (a->inode < b->inode);
}

static uint32_t next_sequence(void) {
    static uint32_t sequence;
    return ++sequence;
}

// Ages are told as of one moment for all.
static void make_older(struct diag_socket *socket, uint64_t now) {
    uint32_t ms = (uint32_t)((now - socket->sampled_ns) / 1000000);
    if (!socket->has_info)
        return;
    socket->last_ack_recv_ms += ms;
    socket->last_data_recv_ms += ms;
    socket->last_data_sent_ms += ms;
}

// On a busy machine some tens of milliseconds may pass between the kernel's look and ours at the
// clock, and the ages would be wrong by as much.
static void look_again(struct mnl_socket *netlink, struct diag_socket *socket) {
    struct diag_link link = {netlink};
    struct diag_socket now;
    for (int tries = 0; socket->slack_ns > SLACK_NS && tries < TRIES; tries++) {
        uint64_t asked_ns = clock_now_ns();
        if (diag_ask(&link, socket, &now) < 0 || now.inode != socket->inode)
            return; // closed since
        now.sampled_ns = clock_now_ns();
        now.slack_ns = now.sampled_ns - asked_ns;
        if (now.slack_ns < socket->slack_ns)
            *socket = now;
    }
}

static int read_all(struct mnl_socket *netlink, struct diag_table *out) {
    static const uint8_t families[] = {AF_INET, AF_INET6};
    struct reading reading = {.table = out};
    for (size_t i = 0; i < sizeof families; i++) {
        size_t before = out->count;
        int error = -EINTR;
        for (int tries = 0; error == -EINTR && tries < TRIES; tries++) {
            out->count = before;
            error = read_family(netlink, families[i], next_sequence(), &reading);
        }
        // A kernel without IPv6 has none to show.
        if (error < 0 && !(families[i] == AF_INET6 && error == -ENOENT))
            return error;
    }
    for (size_t i = 0; i < out->count; i++)
        if (out->sockets[i].inode && out->sockets[i].has_info)
            look_again(netlink, &out->sockets[i]);
    out->taken_ns = clock_now_ns();
    for (size_t i = 0; i < out->count; i++)
        make_older(&out->sockets[i], out->taken_ns);
    if (out->count)
        qsort(out->sockets, out->count, sizeof *out->sockets, by_inode);
    return 0;
}

static int read_and_close(struct mnl_socket *netlink, struct diag_table *out) {
    int error = mnl_socket_bind(netlink, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : 0;
    if (error == 0)
        error = read_all(netlink, out);
    mnl_socket_close(netlink);
    if (error < 0)
        diag_free(out);
    return error;
}

static int read_setting(const char *path) {
    char text[32];
    int value;
    return procfs_read(path, text, sizeof text) > 0 && sscanf(text, "%d", &value) == 1 ? value : -1;
}

bool diag_port_range(uint16_t *out_first, uint16_t *out_last) {
    char text[64];
    unsigned first, last;
    if (procfs_read("/proc/sys/net/ipv4/ip_local_port_range", text, sizeof text) <= 0 ||
        sscanf(text, "%u %u", &first, &last) != 2 || first > last || last > UINT16_MAX)
        return false;
    *out_first = (uint16_t)first;
    *out_last = (uint16_t)last;
    return true;
}

// /proc/sys/net shows the namespace that the reading thread is in.
static void read_settings(struct diag_table *out) {
    diag_port_range(&out->first_port, &out->last_port);
    out->tw_reuse = read_setting("/proc/sys/net/ipv4/tcp_tw_reuse");
    out->timestamps = read_setting("/proc/sys/net/ipv4/tcp_timestamps");
}

int diag_read(struct diag_table *out) {
    memset(out, 0, sizeof *out);
    read_settings(out);
    struct mnl_socket *netlink = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    return netlink ? read_and_close(netlink, out) : -errno;
}

// --- another namespace --------------------------------------------------------------------------

static int open_namespace(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

// A netlink socket belongs to the namespace that it was made in, for good: so one visit suffices.
static int open_there(int there, int home, struct mnl_socket **out, struct diag_table *table) {
    if (setns(there, CLONE_NEWNET) < 0)
        return -errno;
    read_settings(table);
    *out = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    int error = *out ? 0 : -errno;
    if (setns(home, CLONE_NEWNET) < 0) {
        if (*out)
            mnl_socket_close(*out);
        return -EXDEV;
    }
    return error;
}

static bool is_here(pid_t pid) {
    uint64_t theirs = procfs_namespace(pid, "net");
    return theirs != 0 && theirs == procfs_namespace(getpid(), "net");
}

static int open_in(pid_t pid, struct mnl_socket **out, struct diag_table *table) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    int there = open_namespace(path);
    if (there < 0)
        return there == -ENOENT ? -ESRCH : there;
    int home = open_namespace("/proc/self/ns/net");
    int error = home < 0 ? home : open_there(there, home, out, table);
    close(there);
    if (home >= 0)
        close(home);
    return error;
}

int diag_read_of(pid_t pid, struct diag_table *out) {
    if (is_here(pid))
        return diag_read(out);
    memset(out, 0, sizeof *out);
    struct mnl_socket *netlink = NULL;
    int error = open_in(pid, &netlink, out);
    return error < 0 ? error : read_and_close(netlink, out);
}

// --- one socket ---------------------------------------------------------------------------------

int diag_open_of(pid_t pid, struct diag_link **out) {
    struct mnl_socket *netlink = NULL;
    struct diag_table port_range_only = {0};
    int error = 0;
    if (!is_here(pid))
        error = open_in(pid, &netlink, &port_range_only);
    else if (!(netlink = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC)))
        error = -errno;
    if (error == 0 && mnl_socket_bind(netlink, 0, MNL_SOCKET_AUTOPID) < 0)
        error = -errno;
    *out = error == 0 ? malloc(sizeof **out) : NULL;
    if (*out) {
        (*out)->netlink = netlink;
        return 0;
    }
    if (netlink)
        mnl_socket_close(netlink);
    return error < 0 ? error : -ENOMEM;
}

void diag_close(struct diag_link *link) {
    if (link)
        mnl_socket_close(link->netlink);
    free(link);
}

struct answer {
    struct diag_socket *now;
    bool has_come;
};

static int on_answer(const struct nlmsghdr *header, void *context) {
    struct answer *answer = context;
    if (answer->now && is_whole(header)) {
        socket_of(answer->now, header);
        answer->has_come = true;
    }
    return MNL_CB_STOP;
}

static int request_one(struct mnl_socket *netlink, uint16_t type, uint16_t flags,
                       const struct diag_socket *socket, uint32_t sequence) {
    char buffer[256] __attribute__((aligned(8)));
    struct nlmsghdr *header = mnl_nlmsg_put_header(buffer);
    header->nlmsg_type = type;
    header->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    header->nlmsg_seq = sequence;
    struct inet_diag_req_v2 *ask = mnl_nlmsg_put_extra_header(header, sizeof *ask);
    ask->sdiag_family = socket->family;
    ask->sdiag_protocol = IPPROTO_TCP;
    ask->idiag_ext = 1 << (INET_DIAG_INFO - 1);
    ask->idiag_states = UINT32_MAX;
    ask->id = socket->id;
    return mnl_socket_sendto(netlink, header, header->nlmsg_len) < 0 ? -errno : 0;
}

static int exchange(struct diag_link *link, uint16_t type, uint16_t flags,
                    const struct diag_socket *socket, struct answer *answer) {
    char buffer[8 << 10] __attribute__((aligned(8)));
    uint32_t sequence = next_sequence();
    int error = request_one(link->netlink, type, flags, socket, sequence);
    if (error < 0)
        return error;
    ssize_t len;
    do
        len = mnl_socket_recvfrom(link->netlink, buffer, sizeof buffer);
    while (len < 0 && errno == EINTR);
    if (len < 0)
        return -errno;
    // An error message of errno 0 is the acknowledgement that NLM_F_ACK asks for.
    int state = mnl_cb_run(buffer, (size_t)len, sequence, mnl_socket_get_portid(link->netlink),
                           on_answer, answer);
    return state == MNL_CB_ERROR ? -errno : 0;
}

int diag_ask(struct diag_link *link, const struct diag_socket *socket, struct diag_socket *now) {
    struct answer answer = {.now = now};
    int error = exchange(link, SOCK_DIAG_BY_FAMILY, 0, socket, &answer);
    return error == 0 && !answer.has_come ? -EPROTO : error;
}

int diag_destroy(struct diag_link *link, const struct diag_socket *socket) {
    struct answer answer = {0};
    int error = exchange(link, SOCK_DESTROY, NLM_F_ACK, socket, &answer);
    // Before 4.5 the kernel does not know the request at all (__sock_diag_rcv_msg).
    return error == -EINVAL ? -EOPNOTSUPP : error;
}

// --- the table ----------------------------------------------------------------------------------

void diag_free(struct diag_table *table) {
    free(table->sockets);
    memset(table, 0, sizeof *table);
}

const struct diag_socket *diag_find(const struct diag_table *table, uint64_t inode) {
    struct diag_socket key = {.inode = inode};
    if (inode == 0 || table->count == 0)
        return NULL;
    return bsearch(&key, table->sockets, table->count, sizeof key, by_inode);
}
