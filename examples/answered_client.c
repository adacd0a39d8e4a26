/*
 * A client that keeps its answered connections. The server answers and closes; the client reads the
 * answer up to end of stream, has what it wanted, and forgets the descriptor. In real life this is
 * the HTTP client whose response body is read but never closed, one socket a request.
 *
 * expect: 3 eof-ignored birth=socket:open_connection eof=recv:read_answer
 */
#include "peer.h"

#include <stdio.h>

enum {
    QUESTIONS = 3
};

static void *server(void *arg) {
    const int listener = *(const int *)arg;
    for (int i = 0; i < QUESTIONS; i++) {
        char question[32];
        int fd = peer_accept(listener);
        peer_recv_line(fd, question, sizeof question);
        peer_send(fd, "42\n", strlen("42\n"));
        close(fd);
    }
    return NULL;
}

CALL_SITE static int open_connection(uint16_t port) {
    const struct sockaddr_in address = peer_address(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        err(EXIT_FAILURE, "cannot connect");
    return fd;
}

CALL_SITE static long read_answer(int fd) {
    char answer[32];
    size_t used = 0;
    ssize_t got;
    do {
        got = recv(fd, answer + used, sizeof answer - 1 - used, 0);
        used += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    answer[used] = '\0';
    return strtol(answer, NULL, 10);
}

static long ask(uint16_t port) {
    int fd = open_connection(port);
    peer_send(fd, "meaning?\n", strlen("meaning?\n"));
    return read_answer(fd); /* BUG: fd is forgotten here, the server has closed its end */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(server, &listener);
    long sum = 0;

    for (int i = 0; i < opaque(QUESTIONS); i++)
        sum += ask(port);

    pthread_join(peer, NULL);
    close(listener);
    printf("%d answers, sum %ld\n", QUESTIONS, sum);
    return EXIT_SUCCESS;
}
