/*
 * A server that forgets to close. The client hangs up, recv returns 0, the handler takes that for
 * "done" and returns, and nobody closes the descriptor. In real life the server works for days, the
 * CLOSE_WAIT column of netstat grows by one a client, and one night accept4 fails with EMFILE.
 *
 * expect: 3 eof-ignored birth=accept4:accept_client eof=recv:handle_request
 */
#include "peer.h"

#include <stdio.h>

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

CALL_SITE static void handle_request(int client) {
    char buffer[64];
    ssize_t got;
    do {
        got = recv(client, buffer, sizeof buffer, 0);
        if (got > 0)
            peer_send(client, buffer, (size_t)got);
    } while (got > 0);
    /* BUG: the last use of client, and no close(client) */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(clients, &port);

    for (int i = 0; i < opaque(CLIENTS); i++)
        handle_request(accept_client(listener));

    pthread_join(peer, NULL);
    close(listener);
    printf("served %d clients\n", CLIENTS);
    return EXIT_SUCCESS;
}
