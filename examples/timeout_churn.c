/*
 * Clean, and yet trouble: a client whose server has become slow. Each question gives up after its
 * read timeout and is asked again on a new connection, so that the slower the server, the more
 * connections it gets; and the client, who closes first, keeps a TIME_WAIT for each. In real life
 * this is the retry storm that turns a slow dependency into exhausted ports.
 *
 * expect: nothing
 * time-wait: 20 ask gave-up
 */
#include "peer.h"

#include <errno.h>
#include <stdio.h>

enum {
    TRIES = 20,
    TIMEOUT_MS = 30
};

/* Takes the question and never answers; closes when the client has given up. */
static void *server(void *arg) {
    const int listener = *(const int *)arg;
    char question[32];
    for (int i = 0; i < TRIES; i++) {
        int client = peer_accept(listener);
        while (peer_recv_line(client, question, sizeof question) > 0)
            ;
        close(client);
    }
    return NULL;
}

/* Returns 0, or -1 where no answer came in time. */
CALL_SITE static int ask(uint16_t port) {
    const struct sockaddr_in address = peer_address(port);
    const struct timeval timeout = {.tv_usec = TIMEOUT_MS * 1000};
    char answer[32];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        err(EXIT_FAILURE, "cannot connect");
    peer_send(fd, "how are you?\n", strlen("how are you?\n"));
    ssize_t got = recv(fd, answer, sizeof answer, 0);
    if (got < 0 && errno != EAGAIN)
        err(EXIT_FAILURE, "cannot receive");
    close(fd);
    return got > 0 ? 0 : -1;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(server, &listener);
    int unanswered = 0;

    for (int i = 0; i < opaque(TRIES); i++)
        unanswered += ask(port) != 0;

    pthread_join(peer, NULL);
    close(listener);
    printf("%d of %d tries had no answer\n", unanswered, TRIES);
    return EXIT_SUCCESS;
}
