/*
 * Clean: a pre-fork server. Its workers share one listener, inherited over fork, and each accepts
 * its quota of connections from it; whichever worker gets a connection reads it to the end and
 * closes it. The parent is the clients, and waits for its workers.
 *
 * expect: nothing
 */
#include "peer.h"

#include <stdio.h>
#include <sys/wait.h>

enum {
    WORKERS = 3,
    QUOTA = 2
};

static void work(int listener) {
    for (int i = 0; i < QUOTA; i++) {
        int client = peer_accept(listener);
        peer_echo(client);
        close(client);
    }
    close(listener);
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);

    for (int i = 0; i < WORKERS; i++)
        if (peer_fork() == 0) {
            work(listener);
            return EXIT_SUCCESS;
        }
    close(listener);

    for (int i = 0; i < WORKERS * QUOTA; i++)
        peer_ask(port, "hello\n");

    for (int status, i = 0; i < WORKERS; i++)
        if (wait(&status) < 0 || status != 0)
            errx(EXIT_FAILURE, "a worker failed");
    printf("%d workers served %d clients\n", WORKERS, WORKERS * QUOTA);
    return EXIT_SUCCESS;
}
