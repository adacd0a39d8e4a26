/*
 * A connection pool that nobody looks at. The server closes its idle connections after a while; the
 * pool neither reads nor polls what lies unused in it, so it never learns. In real life this is the
 * database pool after a quiet night: every connection is dead, and the first query of the morning
 * fails with "connection reset by peer".
 *
 * expect: 4 fin-unread birth=socket:pool_connect eof=-
 */
#include "peer.h"

#include <stdio.h>

enum {
    POOL_SIZE = 4
};

struct pool {
    int fds[POOL_SIZE];
};

/* Accepts the whole pool, then loses patience with all of it. */
static void *server(void *arg) {
    const int listener = *(const int *)arg;
    int fds[POOL_SIZE];
    for (int i = 0; i < POOL_SIZE; i++)
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    for (int i = 0; i < POOL_SIZE; i++)
        close(fds[i]);
    return NULL;
}

CALL_SITE static int pool_connect(uint16_t port) {
    const struct sockaddr_in address = peer_address(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        err(EXIT_FAILURE, "cannot connect");
    return fd;
}

static void pool_fill(struct pool *pool, uint16_t port) {
    for (int i = 0; i < opaque(POOL_SIZE); i++)
        pool->fds[i] = pool_connect(port);
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(server, &listener);
    struct pool pool;

    pool_fill(&pool, port);
    pthread_join(peer, NULL);
    close(listener);

    /* BUG: the night passes, and nothing here reads, polls or closes what is in the pool */
    for (int i = 0; i < POOL_SIZE; i++)
        peer_wait_state(pool.fds[i], TCP_CLOSE_WAIT, PAST_GRACE_MS);

    printf("the pool holds %d connections\n", POOL_SIZE);
    return EXIT_SUCCESS;
}
