/*
 * A server that forks a child for each connection. The child does all right: it serves, reads end
 * of stream, closes and exits. The parent forgets that fork left it a copy of the descriptor. In
 * real life the clients notice nothing or wait in vain for a FIN, and the parent runs out of
 * descriptors although every line that handles a connection is correct.
 *
 * expect: 3 fin-unread birth=accept4:accept_client eof=- process=parent
 */
#include "peer.h"

#include <stdio.h>
#include <sys/wait.h>

enum {
    CLIENTS = 3
};

/* The peer is a process, not a thread: a child of ours would hold copies of a thread's sockets. */
static void clients(int listener, uint16_t port) {
    close(listener);
    for (int i = 0; i < CLIENTS; i++)
        peer_ask(port, "hello\n");
}

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

static void serve_client(int client) {
    /* The newest number is the highest; below it are the listener and what the parent forgot. */
    close_range(STDERR_FILENO + 1, (unsigned)client - 1, 0);
    peer_echo(client);
    close(client);
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    int client = -1;

    if (peer_fork() == 0) {
        clients(listener, port);
        _exit(EXIT_SUCCESS);
    }
    for (int i = 0; i < opaque(CLIENTS); i++) {
        client = accept_client(listener);
        if (peer_fork() == 0) {
            serve_client(client);
            _exit(EXIT_SUCCESS);
        }
        /* BUG: no close(client) in the parent */
    }
    while (wait(NULL) > 0)
        continue;
    peer_wait_state(client, TCP_CLOSE_WAIT, PAST_GRACE_MS); /* the last FIN is the youngest */

    close(listener);
    printf("%d children served\n", CLIENTS);
    return EXIT_SUCCESS;
}
