// What libc's headers may not have of TCP, and the questions that tell most of a connection.
#ifndef SOCKLEAK_BASE_TCP_H
#define SOCKLEAK_BASE_TCP_H

#include "base/sys.h"
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#ifndef IPPROTO_MPTCP // glibc 2.32
#define IPPROTO_MPTCP 262
#endif

// TCP_INFO of a socket; of an MPTCP one, its first subflow's. What an older kernel does not tell is
// zero (tcp(7)). False where it has none. One getsockopt, signal-safe.
static inline bool tcp_info_of(int fd, struct tcp_info *out) {
    memset(out, 0, sizeof *out);
    unsigned bytes = sizeof *out;
    return sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, out, &bytes) == 0;
}

// True where a connection's death has left an error that nobody was told of yet: tcp_reset() in
// net/ipv4/tcp_input.c leaves it for the program's next call. Takes nothing away. One poll,
// signal-safe.
static inline bool tcp_has_pending_error(int fd) {
    int seen = sys_poll_at_once(fd, 0);
    return seen >= 0 && (seen & POLLERR);
}

#endif
