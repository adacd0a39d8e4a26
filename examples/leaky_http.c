/*
 * A web server that closes every connection, but for the path it does not know: the 404 branch
 * reads the client's end of stream, counts, and returns. In real life a crawler finds that path,
 * and the server has 1,000 sockets in CLOSE_WAIT by Monday.
 *
 * Without arguments it plays its own clients. `leaky_http COUNT` prints its port and serves that
 * many requests of real ones: `make demo` sends curl.
 *
 * expect: 3 eof-ignored birth=accept4:accept_client eof=recv:wait_for_end
 */
#include "peer.h"

#include <stdbool.h>
#include <stdio.h>

enum {
    OWN_REQUESTS = 8
};

static void *own_clients(void *arg) {
    const uint16_t port = *(const uint16_t *)arg;
    for (int i = 0; i < OWN_REQUESTS; i++)
        peer_ask(port, i % 3 == 1 ? "GET /missing HTTP/1.0\r\n\r\n" : "GET / HTTP/1.0\r\n\r\n");
    return NULL;
}

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

/* The header's lines up to the empty one. Returns whether the path is known. */
static bool read_request(int client) {
    char first[128], line[256];
    peer_recv_line(client, first, sizeof first);
    while (peer_recv_line(client, line, sizeof line) > 2)
        ;
    return strncmp(first, "GET / ", strlen("GET / ")) == 0;
}

static void answer(int client, const char *status) {
    char text[128];
    int len = snprintf(text, sizeof text, "HTTP/1.0 %s\r\nContent-Length: 0\r\n\r\n", status);
    peer_send(client, text, (size_t)len);
}

CALL_SITE static int wait_for_end(int client) {
    char rest[64];
    ssize_t got = recv(client, rest, sizeof rest, 0);
    return got == 0;
}

CALL_SITE static int handle_client(int client) {
    if (!read_request(client)) {
        answer(client, "404 Not Found");
        return wait_for_end(client); /* BUG: past the close below */
    }
    answer(client, "200 OK");
    int ended = wait_for_end(client);
    close(client);
    return ended;
}

int main(int argc, char **argv) {
    const int requests = argc > 1 ? atoi(argv[1]) : OWN_REQUESTS;
    uint16_t port;
    int listener = peer_listen(&port), ended = 0;
    pthread_t peer = {0};
    if (argc > 1)
        printf("port %u\n", port), fflush(stdout);
    else
        peer = peer_start(own_clients, &port);

    for (int i = 0; i < opaque(requests); i++)
        ended += handle_client(accept_client(listener));
    if (argc == 1)
        pthread_join(peer, NULL);
    close(listener);
    printf("%d requests served\n", ended);
    return EXIT_SUCCESS;
}
