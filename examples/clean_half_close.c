/*
 * Clean: an echo server whose client closes only its own direction. The server reads end of stream
 * while its last echo is still on the way, and then closes; the client reads that echo to the end.
 * CLOSE_WAIT in between is TCP at work, and no leak.
 *
 * expect: nothing
 */
#include "peer.h"

#include <stdio.h>

enum {
    CLIENTS = 3
};

static const char *const lines[] = {"one\n", "two\n", "three\n"};
enum {
    LINES = sizeof lines / sizeof *lines
};

static void echo_client(uint16_t port) {
    char echo[32];
    int echoed = 0;
    int fd = peer_connect(port);

    for (int i = 0; i < LINES; i++)
        peer_send(fd, lines[i], strlen(lines[i]));
    shutdown(fd, SHUT_WR);
    while (peer_recv_line(fd, echo, sizeof echo) > 0)
        if (strcmp(echo, lines[echoed++]) != 0)
            errx(EXIT_FAILURE, "wrong echo: %s", echo);
    close(fd);
    if (echoed != LINES)
        errx(EXIT_FAILURE, "%d of %d lines came back", echoed, LINES);
}

static void *clients(void *arg) {
    for (int i = 0; i < CLIENTS; i++)
        echo_client(*(const uint16_t *)arg);
    return NULL;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(clients, &port);

    for (int i = 0; i < CLIENTS; i++) {
        int client = peer_accept(listener);
        peer_echo(client);
        close(client);
    }
    pthread_join(peer, NULL);
    close(listener);
    printf("echoed %d clients\n", CLIENTS);
    return EXIT_SUCCESS;
}
