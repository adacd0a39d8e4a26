/*
 * A handler with one early return too many. It closes its connection at the end, as it should, but
 * a request that asks for nothing leaves before that. In real life two of a thousand connections
 * leak: no test notices, the code looks right, and after a month the descriptors run out.
 *
 * expect: 2 eof-ignored birth=accept4:accept_client eof=recv:read_request
 * cause: forgotten
 */
#include "peer.h"

#include <stdio.h>

enum {
    REQUESTS = 50,
    EMPTY_ONE_IN = 25
};

static void *clients(void *arg) {
    const uint16_t port = *(const uint16_t *)arg;
    for (int i = 1; i <= REQUESTS; i++) {
        char answer[32];
        int fd = peer_connect(port);
        if (i % EMPTY_ONE_IN != 0)
            peer_send(fd, "time\n", strlen("time\n"));
        shutdown(fd, SHUT_WR);
        if (i % EMPTY_ONE_IN != 0)
            peer_recv_line(fd, answer, sizeof answer);
        close(fd);
    }
    return NULL;
}

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

/* A request ends where the client's stream ends. Returns its length in bytes. */
CALL_SITE static size_t read_request(int client, char *request, size_t size_bytes) {
    size_t used = 0;
    ssize_t got;
    do {
        got = recv(client, request + used, size_bytes - used, 0);
        used += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    return used;
}

static void handle_request(int client) {
    char request[64], answer[32];

    if (read_request(client, request, sizeof request) == 0)
        return; /* BUG: nothing to answer, but something to close */
    int len = snprintf(answer, sizeof answer, "%llu\n", (unsigned long long)peer_now_ms());
    peer_send(client, answer, (size_t)len);
    close(client);
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(clients, &port);

    for (int i = 0; i < opaque(REQUESTS); i++)
        handle_request(accept_client(listener));

    pthread_join(peer, NULL);
    close(listener);
    printf("handled %d requests\n", REQUESTS);
    return EXIT_SUCCESS;
}
