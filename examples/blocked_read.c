/*
 * A worker that waits for a peer that has nothing to say. It serves two connections; the second has
 * been closed by its peer long ago, but the worker is in a recv on the first, which has no timeout,
 * and never gets there. In real life one silent client (a laptop that was shut, a firewall that
 * dropped the state) holds a worker, and all that the worker owns, for ever.
 *
 * expect: 1 fin-unread birth=accept4:accept_client eof=-
 * cause: blocked
 */
#include "peer.h"

#include <stdio.h>

struct service {
    int listener;
    int silent, closed; /* the worker's connections; 0 not yet */
};

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

CALL_SITE static void serve(int client) {
    char request[64];
    ssize_t got;
    do {
        got = recv(client, request, sizeof request, 0); /* BUG: waits as long as it takes */
        if (got > 0)
            peer_send(client, request, (size_t)got);
    } while (got > 0);
    close(client);
}

static void *worker(void *arg) {
    struct service *service = arg;
    for (int i = 0; i < opaque(2); i++) {
        int *client = i == 0 ? &service->silent : &service->closed;
        __atomic_store_n(client, accept_client(service->listener), __ATOMIC_RELEASE);
    }
    serve(service->silent);
    serve(service->closed);
    return NULL;
}

int main(void) {
    uint16_t port;
    struct service service = {.listener = peer_listen(&port)};
    peer_start(worker, &service);

    int silent = peer_connect(port); /* says nothing, and stays */
    close(peer_connect(port));
    while (__atomic_load_n(&service.closed, __ATOMIC_ACQUIRE) == 0)
        usleep(1000);
    peer_wait_state(service.closed, TCP_CLOSE_WAIT, PAST_GRACE_MS);

    printf("the worker still serves its first client\n");
    fflush(stdout);
    (void)silent;
    return EXIT_SUCCESS;
}
