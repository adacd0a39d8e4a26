/*
 * A connection pool that nobody looks at. Its connections have each done their work; the server
 * closes what has been idle for a while, and the pool neither reads nor polls what lies unused in
 * it, so it never learns. In real life this is the
 * database pool after a quiet night: every connection is dead, and the first query of the morning
 * fails with "connection reset by peer".
 *
 * expect: 4 fin-unread birth=socket:pool_connect eof=-
 * cause: idle-pool
 */
#include "peer.h"

#include <stdio.h>

enum {
    POOL_SIZE = 4,
    KEEP_ALIVE_MS = 60 /* how long the server keeps an idle connection */
};

struct pool {
    int fds[POOL_SIZE];
};

/* Accepts the whole pool, answers each once, then loses patience with all of it. */
static void *server(void *arg) {
    const int listener = *(const int *)arg;
    char query[32];
    int fds[POOL_SIZE];
    for (int i = 0; i < POOL_SIZE; i++) {
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        peer_recv_line(fds[i], query, sizeof query);
        peer_send(fds[i], "1 row\n", strlen("1 row\n"));
    }
    usleep(KEEP_ALIVE_MS * 1000);
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
    char rows[32];
    for (int i = 0; i < opaque(POOL_SIZE); i++) {
        pool->fds[i] = pool_connect(port);
        peer_send(pool->fds[i], "select\n", strlen("select\n"));
        peer_recv_line(pool->fds[i], rows, sizeof rows);
    }
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
