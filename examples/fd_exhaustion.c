/*
 * A server that leaks until nothing is left. Each connection costs it a descriptor for ever; then
 * accept4 returns EMFILE, and from that moment it serves nobody. In real life that is the first
 * thing anybody notices, and by then the guilty code has long run: so the report is made at that
 * moment, when the evidence is complete.
 *
 * expect: 16 eof-ignored birth=accept4:accept_client eof=recv:handle_request
 * cause: forgotten
 * exhausted: too many open files
 */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum {
    ROOM = 16 /* descriptors that are free for connections */
};

/* In a process of its own, so that its descriptors are not the server's. */
static void clients(uint16_t port) {
    for (int i = 0; i < ROOM; i++)
        peer_ask(port, "hello\n");
    close(peer_connect(port)); /* one more than there is room for */
    _exit(EXIT_SUCCESS);
}

/* Returns a socket, or -1 when there is no descriptor for it. */
CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0 && errno != EMFILE)
        err(EXIT_FAILURE, "accept4");
    return client;
}

CALL_SITE static void handle_request(int client) {
    char data[64];
    ssize_t got;
    do {
        got = recv(client, data, sizeof data, 0);
        if (got > 0)
            peer_send(client, data, (size_t)got);
    } while (got > 0);
    /* BUG: end of stream is not the end of the descriptor */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port), served = 0;
    const struct rlimit few = {(rlim_t)listener + 1 + ROOM, (rlim_t)listener + 1 + ROOM};
    close_range((unsigned)listener + 1, ~0U, 0); /* what the shell may have left to us */
    pid_t peer = peer_fork();
    if (peer == 0)
        clients(port);
    if (setrlimit(RLIMIT_NOFILE, &few) != 0)
        err(EXIT_FAILURE, "setrlimit");

    for (int client; (client = accept_client(listener)) >= 0; served++)
        handle_request(client);
    printf("served %d clients, and then: too many open files\n", served);

    waitpid(peer, NULL, 0);
    close(listener);
    return EXIT_SUCCESS;
}
