/*
 * A web server that closes every connection, but for the path it does not know: the 404 branch
 * reads the client's end of stream, counts, and returns. In real life a crawler finds that path,
 * and the server has 1,000 sockets in CLOSE_WAIT by Monday. Plays its own clients; `leaky_http
 * COUNT` prints its port and serves that many requests of real ones, for a minute at most.
 *
 * expect: 3 eof-ignored birth=accept4:accept_client eof=recv:wait_for_end
 */
#include "peer.h"
#include <stdio.h>
#define OWN_REQUESTS 8

static const char ok[] = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
static const char not_found[] = "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/* Lines up to the empty one that ends a header; keeps the first. */
static void read_header(int fd, char *first, size_t size_bytes) {
    char line[256];
    peer_recv_line(fd, first, size_bytes);
    while (peer_recv_line(fd, line, sizeof line) > 2)
        ;
}

static void *own_clients(void *port) {
    for (int i = 0; i < OWN_REQUESTS; i++) {
        const char *get = i % 3 == 1 ? "GET /missing HTTP/1.0\r\n\r\n" : "GET / HTTP/1.0\r\n\r\n";
        char status[128];
        int fd = peer_connect(*(const uint16_t *)port);
        peer_send(fd, get, strlen(get));
        read_header(fd, status, sizeof status);
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

CALL_SITE static int wait_for_end(int client) {
    char rest[64];
    return recv(client, rest, sizeof rest, 0) == 0;
}

CALL_SITE static int handle_client(int client) {
    char request[128];
    read_header(client, request, sizeof request);
    if (strncmp(request, "GET / ", strlen("GET / ")) != 0) {
        peer_send(client, not_found, strlen(not_found));
        return wait_for_end(client); /* BUG: past the close below */
    }
    peer_send(client, ok, strlen(ok));
    int ended = wait_for_end(client);
    close(client);
    return ended;
}

int main(int argc, char **argv) {
    const int requests = argc > 1 ? atoi(argv[1]) : OWN_REQUESTS;
    uint16_t port;
    int listener = peer_listen(&port), ended = 0;
    pthread_t peer = {0};
    if (argc > 1) {
        alarm(60);
        dprintf(STDOUT_FILENO, "port %u\n", port);
    } else {
        peer = peer_start(own_clients, &port);
    }
    for (int i = 0; i < opaque(requests); i++)
        ended += handle_client(accept_client(listener));
    if (argc == 1)
        pthread_join(peer, NULL);
    close(listener);
    printf("%d requests served\n", ended);
    return EXIT_SUCCESS;
}
