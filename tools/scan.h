// What `sockleak scan` finds: the sockets in CLOSE_WAIT of all processes, and TIME_WAIT by
// destination. No process is touched.
#ifndef SOCKLEAK_TOOLS_SCAN_H
#define SOCKLEAK_TOOLS_SCAN_H

#include "diag.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct scan_filter {
    pid_t pid;         // 0: all
    uint16_t port;     // local or the peer's; 0: all
    uint64_t older_ms; // in CLOSE_WAIT for at least this long; what is younger is only counted
};

struct scan_socket {
    struct diag_socket kernel;
    int *fds; // of the process; none where the process is not known, or the socket is_waiting
    uint32_t fd_count;
    bool is_from_peer; // somebody listens on its local port: the peer connected to us
    bool is_waiting;   // in the accept queue of a socket of this process
};

// Sockets with the same other end: its address where it connected to us, else also the port.
struct scan_peer {
    struct ledger_address address; // port 0 where it connected to us
    uint16_t local_port;           // where it connected to us; else 0
    bool is_waiting;               // none has been accepted, or all have
    uint32_t count;
    uint32_t oldest_ms;
};

struct scan_process {
    pid_t pid; // 0: not known, another user's
    uid_t uid;
    char *title;                 // the command line for people
    struct scan_socket *sockets; // in CLOSE_WAIT, oldest first
    uint32_t socket_count;
    struct scan_peer *peers; // most sockets first
    uint32_t peer_count;
    uint32_t oldest_ms;
    uint32_t eof_read;    // the program was told of the end, or it came with the last data
    uint32_t eof_unread;  // it was not
    uint32_t data_unread; // of those: sockets with bytes that it has not read
    uint64_t unread_bytes;
    uint32_t not_accepted;
};

// TIME_WAIT of connections that this machine made. It is no process's.
struct scan_destination {
    struct ledger_address local, peer; // port 0 in local
    uint32_t count;
    uint32_t space;      // the network namespace, by a number of our own
    uint32_t port_count; // of the range that outgoing connections choose from; 0 not known
};

struct scan_result {
    struct scan_filter filter;      // what was looked for
    struct scan_process *processes; // what hurts most first: most sockets, then the oldest
    uint32_t process_count;
    struct scan_destination *destinations; // most first
    uint32_t destination_count;
    uint32_t close_wait;   // distinct sockets; a forked process shares its parent's
    uint32_t not_accepted; // of those
    uint32_t oldest_ms;
    uint32_t younger; // than filter.older_ms: in nothing of the above
    uint32_t younger_oldest_ms;
    uint32_t time_wait;             // all, also of accepted connections; not with filter.pid
    uint32_t namespaces;            // network namespaces looked at
    uint32_t blind_namespaces;      // and not: no permission
    uint32_t blind_processes;       // that live there
    uint32_t unread_processes;      // whose descriptors may not be read
    uint16_t first_port, last_port; // in this process's namespace
};

// 0 or -errno: -ESRCH where filter->pid is no process, -EACCES where it may not be looked at.
int scan_take(const struct scan_filter *filter, struct scan_result *out);
void scan_free(struct scan_result *result);

struct scan_look {
    bool color;
    uint32_t width;     // columns; 0 any
    uint32_t peers_max; // shown for each process
};

void scan_write_text(const struct scan_result *result, const struct scan_look *look, FILE *out);
// One document; on one line where `compact`.
void scan_write_json(const struct scan_result *result, bool compact, FILE *out);

#endif
