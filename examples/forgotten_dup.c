/*
 * A session with two descriptors for one socket, one to read from and a dup to write to, of which
 * only the first is closed. The kernel sends no FIN before the last one goes, so the socket stays
 * in CLOSE_WAIT although the code has a close for it. In real life: fdopen(fd, "r") and
 * fdopen(dup(fd), "w"), and only one fclose.
 *
 * expect: 1 eof-ignored birth=accept4:accept_client eof=recv:read_request
 */
#include "peer.h"

#include <stdio.h>

struct session {
    int in;
    int out;
};

static void *client(void *arg) {
    peer_ask(*(const uint16_t *)arg, "hello\n");
    return NULL;
}

CALL_SITE static int accept_client(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        err(EXIT_FAILURE, "accept4");
    return fd;
}

/* Returns the length of what came, 0 at end of stream. */
CALL_SITE static size_t read_request(const struct session *session, char *data, size_t size_bytes) {
    ssize_t got = recv(session->in, data, size_bytes, 0);
    if (got < 0)
        err(EXIT_FAILURE, "recv");
    return (size_t)got;
}

static void session_end(struct session *session) {
    close(session->in); /* BUG: session->out is the same socket, and still open */
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    pthread_t peer = peer_start(client, &port);
    int fd = accept_client(listener);
    struct session session = {.in = fd, .out = dup(fd)};
    char data[64];
    size_t len;

    do {
        len = read_request(&session, data, sizeof data);
        peer_send(session.out, data, len);
    } while (len > 0);
    session_end(&session);

    pthread_join(peer, NULL);
    close(listener);
    puts("the session is over");
    return EXIT_SUCCESS;
}
