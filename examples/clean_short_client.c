/*
 * Clean: a short-lived client, the kind that a shell script runs. It connects, asks, reads the
 * answer to the end of stream, closes and exits at once. The server closes first, so each socket
 * was in CLOSE_WAIT for a moment, and neither side has time to spare.
 *
 * expect: nothing
 */
#include "peer.h"

#include <stdio.h>

static void *server(void *arg) {
    char question[32];
    int fd = peer_accept(*(const int *)arg);
    peer_recv_line(fd, question, sizeof question);
    peer_send(fd, "noon\n", strlen("noon\n"));
    close(fd);
    return NULL;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(server, &listener);
    char answer[32];
    size_t used = 0;
    ssize_t got;

    int fd = peer_connect(port);
    peer_send(fd, "time?\n", strlen("time?\n"));
    do {
        got = recv(fd, answer + used, sizeof answer - 1 - used, 0);
        used += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    answer[used] = '\0';
    close(fd);

    pthread_join(peer, NULL);
    close(listener);
    printf("it is %s", answer);
    return EXIT_SUCCESS;
}
