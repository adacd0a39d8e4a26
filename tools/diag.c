#include "diag.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    ANSWER_BYTES = 64 << 10,
    TRIES = 3 // a dump that the kernel says was torn (EINTR) is asked for again
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

struct reading {
    struct diag_table *table;
    size_t room;
    int error;
};

static int on_message(const struct nlmsghdr *header, void *context) {
    struct reading *reading = context;
    if (mnl_nlmsg_get_payload_len(header) < sizeof(struct inet_diag_msg))
        return MNL_CB_OK;
    const struct inet_diag_msg *message = mnl_nlmsg_get_payload(header);
    struct diag_socket socket = {
        .inode = message->idiag_inode,
        .uid = message->idiag_uid,
        .recv_queue_bytes = message->idiag_rqueue,
        .send_queue_bytes = message->idiag_wqueue,
        .state = message->idiag_state,
    };
    const struct inet_diag_sockid *id = &message->id;
    address_of(&socket.local, message->idiag_family, id->idiag_src, id->idiag_sport, id->idiag_if);
    address_of(&socket.peer, message->idiag_family, id->idiag_dst, id->idiag_dport, id->idiag_if);
    if (socket.state == STATE_CLOSE_WAIT) {
        socket.fin_read = socket.recv_queue_bytes == 0;
        socket.recv_queue_bytes -= !socket.fin_read;
    }
    mnl_attr_parse(header, sizeof *message, on_attribute, &socket);
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

static int read_family(struct mnl_socket *netlink, uint8_t family, uint32_t sequence,
                       struct reading *reading) {
    static char buffer[ANSWER_BYTES] __attribute__((aligned(8)));
    int error = request(netlink, family, sequence);
    int state = MNL_CB_OK;
    while (error == 0 && state == MNL_CB_OK) {
        ssize_t len = mnl_socket_recvfrom(netlink, buffer, sizeof buffer);
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            return -errno;
        state = mnl_cb_run(buffer, (size_t)len, sequence, mnl_socket_get_portid(netlink),
                           on_message, reading);
        if (state == MNL_CB_ERROR)
            error = reading->error < 0 ? reading->error : -errno;
    }
    return error;
}

static int by_inode(const void *left, const void *right) {
    const struct diag_socket *a = left, *b = right;
    return (a->inode > b->inode) - (a->inode < b->inode);
}

static int read_all(struct mnl_socket *netlink, struct diag_table *out) {
    static uint32_t sequence;
    static const uint8_t families[] = {AF_INET, AF_INET6};
    struct reading reading = {.table = out};
    for (size_t i = 0; i < sizeof families; i++) {
        size_t before = out->count;
        int error = -EINTR;
        for (int tries = 0; error == -EINTR && tries < TRIES; tries++) {
            out->count = before;
            error = read_family(netlink, families[i], ++sequence, &reading);
        }
        // A kernel without IPv6 has none to show.
        if (error < 0 && !(families[i] == AF_INET6 && error == -ENOENT))
            return error;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    out->taken_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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

// /proc/sys/net shows the namespace that the reading thread is in.
static void read_port_range(struct diag_table *out) {
    char text[64];
    unsigned first, last;
    if (procfs_read("/proc/sys/net/ipv4/ip_local_port_range", text, sizeof text) > 0 &&
        sscanf(text, "%u %u", &first, &last) == 2 && first <= last && last <= UINT16_MAX) {
        out->first_port = (uint16_t)first;
        out->last_port = (uint16_t)last;
    }
}

int diag_read(struct diag_table *out) {
    memset(out, 0, sizeof *out);
    read_port_range(out);
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
    read_port_range(table);
    *out = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    int error = *out ? 0 : -errno;
    if (setns(home, CLONE_NEWNET) < 0) {
        if (*out)
            mnl_socket_close(*out);
        return -EXDEV;
    }
    return error;
}

int diag_read_of(pid_t pid, struct diag_table *out) {
    memset(out, 0, sizeof *out);
    uint64_t theirs = procfs_namespace(pid, "net");
    if (theirs != 0 && theirs == procfs_namespace(getpid(), "net"))
        return diag_read(out);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    int there = open_namespace(path);
    if (there < 0)
        return there == -ENOENT ? -ESRCH : there;
    int home = open_namespace("/proc/self/ns/net");
    struct mnl_socket *netlink = NULL;
    int error = home < 0 ? home : open_there(there, home, &netlink, out);
    close(there);
    if (home >= 0)
        close(home);
    return error < 0 ? error : read_and_close(netlink, out);
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
