/*
 * A server that ends its connections with shutdown and believes them closed. shutdown ends the
 * conversation (both FINs are exchanged, the TCP state is CLOSE), but the descriptor stays. In real
 * life this leak hides from netstat, which shows no CLOSE_WAIT; lsof lists the descriptors as
 * "can't identify protocol".
 *
 * expect: 2 shutdown-unclosed birth=accept4:accept_client eof=recv:serve_client
 */
#include "peer.h"

#include <stdio.h>

enum {
    CLIENTS = 2
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

CALL_SITE static void serve_client(int client) {
    char data[64];
    ssize_t got;
    do {
        got = recv(client, data, sizeof data, 0);
        if (got > 0)
            peer_send(client, data, (size_t)got);
    } while (got > 0);
    if (shutdown(client, SHUT_RDWR) != 0) /* BUG: not a close */
        err(EXIT_FAILURE, "shutdown");
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
