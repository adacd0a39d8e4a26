/*
 * An event loop that asks for EPOLLRDHUP and never looks at it. It reads, gets 0, and takes the
 * descriptor out of the epoll set, because otherwise it would spin; but nobody closes it. In real
 * life the spinning was the bug that got fixed: the CPU is quiet again, and the sockets pile up.
 *
 * expect: 3 eof-ignored birth=accept4:accept_client eof=read:on_readable
 */
#include "peer.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>

enum {
    CLIENTS = 3
};

static void *clients(void *arg) {
    const uint16_t port = *(const uint16_t *)arg;
    for (int i = 0; i < CLIENTS; i++)
        peer_ask(port, "hello\n");
    return NULL;
}

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

/* Returns whether more may come. */
CALL_SITE static bool on_readable(int client) {
    char data[64];
    ssize_t got = read(client, data, sizeof data);
    if (got > 0)
        peer_send(client, data, (size_t)got);
    return got > 0;
}

static void watch(int epoll, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        err(EXIT_FAILURE, "epoll_ctl");
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int gone = 0;

    pthread_t peer = peer_start(clients, &port);
    watch(epoll, listener, EPOLLIN);
    while (gone < CLIENTS) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) != 1)
            err(EXIT_FAILURE, "epoll_wait");
        if (event.data.fd == listener) {
            watch(epoll, accept_client(listener), EPOLLIN | EPOLLRDHUP);
        } else if (!on_readable(event.data.fd)) {
            epoll_ctl(epoll, EPOLL_CTL_DEL, event.data.fd, NULL); /* BUG: deleted, not closed */
            gone++;
        }
    }
    pthread_join(peer, NULL);
    close(epoll);
    close(listener);
    printf("%d clients left the loop\n", gone);
    return EXIT_SUCCESS;
}
