/*
 * A server that closes every connection, but for one path: a malformed request is answered with an
 * error and the handler returns early, past the close. In real life the leak is slow and follows no
 * load curve; it follows whoever sends garbage: a port scanner, a health check, a broken client.
 *
 * expect: 2 eof-ignored birth=accept4:accept_client eof=recv:read_request
 */
#include "peer.h"

#include <stdio.h>

static const char *const requests[] = {"add 1 2\n", "add one\n", "add 3 4\n", "GET /\n",
                                       "add 5 6\n"};
enum {
    REQUESTS = sizeof requests / sizeof *requests
};

static void *clients(void *arg) {
    const uint16_t port = *(const uint16_t *)arg;
    for (int i = 0; i < REQUESTS; i++) {
        char answer[32];
        int fd = peer_connect(port);
        peer_send(fd, requests[i], strlen(requests[i]));
        shutdown(fd, SHUT_WR);
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

/* A request ends where the client's stream ends. */
CALL_SITE static void read_request(int client, char *request, size_t size_bytes) {
    size_t used = 0;
    ssize_t got;
    do {
        got = recv(client, request + used, size_bytes - 1 - used, 0);
        used += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    request[used] = '\0';
}

static void handle_request(int client) {
    char request[64], answer[32];
    int a, b;

    read_request(client, request, sizeof request);
    if (sscanf(request, "add %d %d", &a, &b) != 2) {
        peer_send(client, "error\n", strlen("error\n"));
        return; /* BUG: past the close below */
    }
    int len = snprintf(answer, sizeof answer, "%d\n", a + b);
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
