#include "sockets.h"
#include "unit.h"
#include <linux/tcp.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    TCP_CLOSED_STATE = 7,
    TCP_CLOSE_WAIT_STATE = 8,
    WAIT_MS = 5000
};

void sleep_ms(long ms) {
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

struct tcp_pair tcp_pair(int family) {
    struct sockaddr_in6 address = {.sin6_family = (sa_family_t)family};
    struct sockaddr *any = (struct sockaddr *)&address;
    socklen_t bytes = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof address;
    if (family == AF_INET)
        ((struct sockaddr_in *)(void *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        address.sin6_addr = in6addr_loopback;
    struct tcp_pair pair;
    pair.listener = socket(family, SOCK_STREAM, 0);
    assert_true(pair.listener >= 0);
    assert_int_equal(bind(pair.listener, any, bytes), 0);
    assert_int_equal(listen(pair.listener, 8), 0);
    assert_int_equal(getsockname(pair.listener, any, &bytes), 0);
    pair.peers = socket(family, SOCK_STREAM, 0);
    assert_int_equal(connect(pair.peers, any, bytes), 0);
    pair.ours = accept(pair.listener, NULL, NULL);
    assert_true(pair.ours >= 0);
    return pair;
}

void tcp_pair_close(struct tcp_pair *pair) {
    int fds[] = {pair->listener, pair->ours, pair->peers};
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    *pair = (struct tcp_pair){-1, -1, -1};
}

int tcp_state(int fd) {
    struct tcp_info info = {0};
    socklen_t bytes = sizeof info;
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes), 0);
    return info.tcpi_state;
}

void wait_for_state(int fd, int state) {
    for (int ms = 0; ms < WAIT_MS && tcp_state(fd) != state; ms++)
        sleep_ms(1);
    assert_int_equal(tcp_state(fd), state);
}

void peer_closes(struct tcp_pair *pair) {
    close(pair->peers);
    pair->peers = -1;
    wait_for_state(pair->ours, TCP_CLOSE_WAIT_STATE);
}

void peer_resets(struct tcp_pair *pair) {
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(pair->peers, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(pair->peers);
    pair->peers = -1;
    wait_for_state(pair->ours, TCP_CLOSED_STATE);
}

uint64_t inode_of(int fd) {
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return status.st_ino;
}

uint16_t local_port(int fd) {
    struct sockaddr_in6 address;
    socklen_t bytes = sizeof address;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
    return ntohs(address.sin6_port);
}
