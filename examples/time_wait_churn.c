/*
 * Clean, and yet trouble: a client that opens a connection for each question and closes it first.
 * No socket is left behind, but whoever closes first keeps TIME_WAIT (RFC 9293, section 3.6), for
 * 60 s on Linux, and with it a port of the ephemeral range. In real life 470 questions a second to
 * one server use up all 28,232 ports, and connect fails. What helps is one connection that is kept.
 *
 * expect: nothing
 * time-wait: 200 ask
 */
#include "peer.h"

#include <stdio.h>

enum {
    QUESTIONS = 200
};

/* Answers, and closes when the client has. */
static void *server(void *arg) {
    const int listener = *(const int *)arg;
    char question[32];
    for (int i = 0; i < QUESTIONS; i++) {
        int client = peer_accept(listener);
        while (peer_recv_line(client, question, sizeof question) > 0)
            peer_send(client, "42\n", strlen("42\n"));
        close(client);
    }
    return NULL;
}

CALL_SITE static void ask(uint16_t port) {
    const struct sockaddr_in address = peer_address(port);
    char answer[32];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        err(EXIT_FAILURE, "cannot connect");
    peer_send(fd, "what is it?\n", strlen("what is it?\n"));
    peer_recv_line(fd, answer, sizeof answer);
    close(fd); /* first: TIME_WAIT is on this side */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(server, &listener);

    for (int i = 0; i < opaque(QUESTIONS); i++)
        ask(port);

    pthread_join(peer, NULL);
    close(listener);
    printf("asked %d questions\n", QUESTIONS);
    return EXIT_SUCCESS;
}
