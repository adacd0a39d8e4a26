// The kernel's TCP sockets, by netlink sock_diag(7): what `ss` shows, in one request for each
// address family, without touching the processes that own them.
#ifndef SOCKLEAK_DIAG_H
#define SOCKLEAK_DIAG_H

#include "ledger/ledger_format.h"
#include <linux/inet_diag.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct diag_socket {
    // 0: no process has it open: closed and being wound up, or not accepted yet (CLOSE_WAIT and
    // ESTABLISHED).
    uint64_t inode;
    uint32_t uid;
    // Without the FIN, which the kernel counts as 1 until it is read. LISTEN: connections in the
    // accept queue.
    uint32_t recv_queue_bytes;
    uint32_t send_queue_bytes;
    uint64_t sampled_ns; // CLOCK_MONOTONIC, when the kernel looked at it; 0: not of a table
    uint64_t slack_ns;   // it may have looked as much earlier
    // Milliseconds before the table's taken_ns; of TCP_INFO, see has_info. In CLOSE_WAIT
    // last_ack_recv is the age of the FIN, exact while this side has sent nothing since.
    uint32_t last_ack_recv_ms, last_data_recv_ms, last_data_sent_ms;
    uint64_t bytes_acked, bytes_received;
    uint32_t data_segments_out, data_segments_in;
    uint8_t state; // enum ledger_tcp_state
    bool has_info;
    bool fin_read; // CLOSE_WAIT: the program has consumed the FIN (Recv-Q is 0)
    struct ledger_address local, peer;
    // How the kernel names it: never given to another socket while the machine runs, because of the
    // cookie (sock_gen_cookie in net/core/sock_diag.c).
    uint8_t family; // AF_INET or AF_INET6
    struct inet_diag_sockid id;
};

struct diag_table {
    struct diag_socket *sockets; // sorted by inode
    size_t count;
    uint64_t taken_ns;              // CLOCK_MONOTONIC, when the answer came
    uint16_t first_port, last_port; // net.ipv4.ip_local_port_range there; 0 not known
    int tw_reuse, timestamps;       // net.ipv4.tcp_tw_reuse and tcp_timestamps there; -1 not known
};

// net.ipv4.ip_local_port_range of the namespace that this thread is in; false, and both untouched,
// where it cannot be read.
bool diag_port_range(uint16_t *out_first, uint16_t *out_last);

// The sockets of this process's network namespace: 0 or -errno. Free with diag_free().
int diag_read(struct diag_table *out);

// The same of the namespace that process `pid` lives in. Needs CAP_SYS_ADMIN where that is another
// one: -EPERM. This thread enters it for as long as it takes to make a netlink socket there, and
// comes back; -EXDEV where it could not come back, and the caller should end.
int diag_read_of(pid_t pid, struct diag_table *out);

void diag_free(struct diag_table *table);

// NULL where there is none: the socket is not TCP, was closed, or is in no table of the kernel
// because it is not connected (CLOSE).
const struct diag_socket *diag_find(const struct diag_table *table, uint64_t inode);

// --- one socket ---------------------------------------------------------------------------------

// A line to the kernel in the namespace of process `pid`, kept open: errors as diag_read_of().
struct diag_link;
int diag_open_of(pid_t pid, struct diag_link **out);
void diag_close(struct diag_link *link);

// What is now of the socket that `socket` was: the very same one, by its cookie. 0; -ENOENT where
// it is in no table any more; -ESTALE where its place is another socket's.
int diag_ask(struct diag_link *link, const struct diag_socket *socket, struct diag_socket *now);

// Ends its connection, whoever has it open (SOCK_DESTROY; tcp_abort() in net/ipv4/tcp.c): the peer
// is sent a reset where it waits for something, address and port are free, poll shows POLLERR, and
// the program's next write fails with ECONNABORTED; a read returns 0 where the FIN had come
// (SOCK_DONE in tcp_recvmsg_locked()). Its descriptors stay open. The kernel compares the cookie
// itself. 0; -ENOENT and -ESTALE as above; -EPERM without CAP_NET_ADMIN there; -EOPNOTSUPP where
// the kernel was built without CONFIG_INET_DIAG_DESTROY, or is older than 4.5.
int diag_destroy(struct diag_link *link, const struct diag_socket *socket);

#endif
