/*
 * Clean: a server that answers after the peer's FIN. The client sends its numbers and half-closes;
 * the server reads end of stream, computes for longer than any grace period, answers and closes. A
 * socket that waits in CLOSE_WAIT for its answer has been read to the end, and is still in use.
 *
 * expect: nothing
 */
#include "peer.h"

#include <stdio.h>

static void *client(void *arg) {
    char answer[32];
    int fd = peer_connect(*(const uint16_t *)arg);

    for (int i = 1; i <= 100; i++) {
        char number[16];
        int len = snprintf(number, sizeof number, "%d\n", i);
        peer_send(fd, number, (size_t)len);
    }
    shutdown(fd, SHUT_WR);
    peer_recv_line(fd, answer, sizeof answer);
    close(fd);
    if (strcmp(answer, "5050\n") != 0)
        errx(EXIT_FAILURE, "wrong answer: %s", answer);
    return NULL;
}

static long sum_of_numbers(int fd) {
    char number[16];
    long sum = 0;
    while (peer_recv_line(fd, number, sizeof number) > 0)
        sum += strtol(number, NULL, 10);
    return sum;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(client, &port);
    int fd = peer_accept(listener);

    char answer[32];
    int len = snprintf(answer, sizeof answer, "%ld\n", sum_of_numbers(fd));
    peer_wait_state(fd, TCP_CLOSE_WAIT, PAST_GRACE_MS); /* the long computation */
    peer_send(fd, answer, (size_t)len);
    close(fd);

    pthread_join(peer, NULL);
    close(listener);
    puts("answered late");
    return EXIT_SUCCESS;
}
