/*
 * A server that keeps a connection after it was reset. recv fails with ECONNRESET; the handler has
 * a close for the orderly end of stream and, for this error, only a return. In real life the
 * clients sit behind a load balancer or a mobile network that cuts connections with RST; the
 * sockets are gone from netstat, the descriptors are not.
 *
 * expect: 2 reset-unclosed birth=accept4:accept_client eof=-
 */
#include "peer.h"

#include <errno.h>
#include <stdio.h>

enum {
    CLIENTS = 2
};

static void *clients(void *arg) {
    const uint16_t port = *(const uint16_t *)arg;
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    for (int i = 0; i < CLIENTS; i++) {
        int fd = peer_connect(port);
        peer_send(fd, "hello\n", strlen("hello\n"));
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd); /* sends RST instead of FIN */
    }
    return NULL;
}

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

CALL_SITE static void serve_client(int client) {
    char data[64];
    ssize_t got;
    do {
        got = recv(client, data, sizeof data, 0);
    } while (got > 0);
    if (got == 0)
        close(client);
    else if (errno != ECONNRESET)
        err(EXIT_FAILURE, "recv");
    /* BUG: "the client is gone anyway" */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(clients, &port);

    for (int i = 0; i < opaque(CLIENTS); i++) {
        int client = accept_client(listener);
        serve_client(client);
        peer_wait_state(client, TCP_CLOSE, PAST_GRACE_MS);
    }
    pthread_join(peer, NULL);
    close(listener);
    printf("served %d clients\n", CLIENTS);
    return EXIT_SUCCESS;
}
