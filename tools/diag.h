// The kernel's TCP sockets, by netlink sock_diag(7): what `ss` shows, in one request for each
// address family, without touching the processes that own them.
#ifndef SOCKLEAK_DIAG_H
#define SOCKLEAK_DIAG_H

#include "ledger/ledger_format.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct diag_socket {
    uint64_t inode; // 0: no process has it open (TIME_WAIT, or closed and being wound up)
    uint32_t uid;
    uint32_t recv_queue_bytes; // without the FIN, which the kernel counts as 1 until it is read
    uint32_t send_queue_bytes;
    // Milliseconds before the answer; of TCP_INFO, see has_info. In CLOSE_WAIT last_ack_recv is the
    // age of the FIN, exact while this side has sent nothing since.
    uint32_t last_ack_recv_ms, last_data_recv_ms, last_data_sent_ms;
    uint64_t bytes_acked, bytes_received;
    uint8_t state; // enum ledger_tcp_state
    bool has_info;
    bool fin_read; // CLOSE_WAIT: the program has consumed the FIN (Recv-Q is 0)
    struct ledger_address local, peer;
};

struct diag_table {
    struct diag_socket *sockets; // sorted by inode
    size_t count;
    uint64_t taken_ns;              // CLOCK_MONOTONIC, when the answer came
    uint16_t first_port, last_port; // net.ipv4.ip_local_port_range there; 0 not known
};

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

#endif
