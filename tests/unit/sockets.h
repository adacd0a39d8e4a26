// Real sockets in the states that the tests need. Every fact comes from the kernel.
#ifndef SOCKLEAK_TESTS_UNIT_SOCKETS_H
#define SOCKLEAK_TESTS_UNIT_SOCKETS_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

// A connection over loopback: both ends in this process.
struct tcp_pair {
    int listener;
    int ours;  // accepted
    int peers; // connected
};

struct tcp_pair tcp_pair(int family); // AF_INET or AF_INET6
void tcp_pair_close(struct tcp_pair *pair);

// Makes the peer send FIN, and waits until it has arrived.
void peer_closes(struct tcp_pair *pair);

// Makes the peer send RST, and waits until it has arrived.
void peer_resets(struct tcp_pair *pair);

// The TCP state (include/net/tcp_states.h), from TCP_INFO.
int tcp_state(int fd);
void wait_for_state(int fd, int state);

uint64_t inode_of(int fd);
uint16_t local_port(int fd);
void sleep_ms(long ms);

#endif
