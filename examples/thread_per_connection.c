/*
 * A server with a thread for each connection. The thread returns at end of stream, and its author
 * thought of the stack and the buffers that go with it; but a descriptor belongs to the process and
 * outlives the thread. In real life the thread count is flat while the descriptor count climbs.
 *
 * expect: 3 eof-ignored birth=accept4:accept_client eof=recv:serve_connection
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

CALL_SITE static void *serve_connection(void *arg) {
    const int client = *(const int *)arg;
    char data[64];
    ssize_t got;
    do {
        got = recv(client, data, sizeof data, 0);
        if (got > 0)
            peer_send(client, data, (size_t)got);
    } while (got > 0);
    return NULL; /* BUG: the thread ends, client does not */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(clients, &port);
    pthread_t workers[CLIENTS];
    int connections[CLIENTS];

    for (int i = 0; i < opaque(CLIENTS); i++) {
        connections[i] = accept_client(listener);
        workers[i] = peer_start(serve_connection, &connections[i]);
    }
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(workers[i], NULL);

    pthread_join(peer, NULL);
    close(listener);
    printf("%d threads have ended\n", CLIENTS);
    return EXIT_SUCCESS;
}
