/*
 * A server that accepts clients into a queue which no worker empties. The clients send, get no
 * answer, give up and close; their requests still lie in the kernel, unread. In real life the
 * workers all hang in a slow backend or have died of an exception, and netstat shows CLOSE_WAIT
 * sockets with a Recv-Q.
 *
 * expect: 2 data-unread birth=accept:enqueue_client eof=-
 */
#include "peer.h"

#include <stdio.h>

enum {
    CLIENTS = 2
};

struct queue {
    int fds[CLIENTS];
    int length;
};

static void *clients(void *arg) {
    const uint16_t port = *(const uint16_t *)arg;
    for (int i = 0; i < CLIENTS; i++) {
        int fd = peer_connect(port);
        peer_send(fd, "hurry\n", strlen("hurry\n"));
        close(fd);
    }
    return NULL;
}

CALL_SITE static void enqueue_client(struct queue *queue, int listener) {
    int client = accept(listener, NULL, NULL);
    if (client < 0)
        err(EXIT_FAILURE, "accept");
    queue->fds[queue->length++] = client;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(clients, &port);
    struct queue queue = {.length = 0};

    for (int i = 0; i < opaque(CLIENTS); i++)
        enqueue_client(&queue, listener);
    pthread_join(peer, NULL);
    close(listener);

    /* BUG: here should be the workers that read, answer and close */
    for (int i = 0; i < queue.length; i++)
        peer_wait_state(queue.fds[i], TCP_CLOSE_WAIT, PAST_GRACE_MS);

    printf("%d clients in the queue\n", queue.length);
    return EXIT_SUCCESS;
}
