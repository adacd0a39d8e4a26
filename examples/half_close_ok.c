/*
 * Clean: a download that is still running when the program ends. The client has sent its question
 * and closed its own direction; the server has read that end of stream, and goes on sending. Its
 * socket is in CLOSE_WAIT, rightly (RFC 9293, section 3.6: a half-closed connection), for as long
 * as data moves. Not to be accused; `sockleak run --show=all` lists it.
 *
 * expect: nothing
 */
#include "peer.h"

#include <stdio.h>

enum {
    DOWNLOAD_MS = 400 /* several times the grace that any socket gets */
};

/* Reads its question to the end, and then answers without end. */
CALL_SITE static void serve_download(int client) {
    const struct timespec pause = {.tv_nsec = 2 * 1000 * 1000};
    char data[64];
    while (recv(client, data, sizeof data, 0) > 0)
        ;
    for (;;) {
        peer_send(client, "more\n", strlen("more\n"));
        nanosleep(&pause, NULL);
    }
}

static void *server(void *arg) {
    int client = peer_accept(*(const int *)arg);
    serve_download(client);
    return NULL;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port), lines = 0;
    char line[32];
    peer_start(server, &listener);

    int fd = peer_connect(port);
    peer_send(fd, "all of it\n", strlen("all of it\n"));
    shutdown(fd, SHUT_WR);
    for (uint64_t end_ms = peer_now_ms() + DOWNLOAD_MS; peer_now_ms() < end_ms;)
        lines += peer_recv_line(fd, line, sizeof line) > 0;

    printf("%s, and the download goes on\n", lines > 10 ? "many lines" : "few lines");
    fflush(stdout);
    return EXIT_SUCCESS; /* both ends are open: a process that is told to stop, stops */
}
