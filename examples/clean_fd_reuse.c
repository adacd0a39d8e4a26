/*
 * Clean: one descriptor number that is a socket, a pipe, a file and a socket again, round after
 * round. Each socket is read to the end and then closed: in odd rounds by close, in even rounds by
 * dup2 of a file over it. At exit the number is still open, as a file: whoever goes by numbers
 * alone takes it for one of the sockets that were here.
 *
 * expect: nothing
 */
#include "peer.h"

#include <fcntl.h>
#include <stdio.h>

enum {
    ROUNDS = 50
};

static void same_number(int fd, int number) {
    if (fd != number)
        errx(EXIT_FAILURE, "fd %d where %d was expected", fd, number);
}

/* The kernel completes a connection in the backlog, so one thread can be both ends. */
static int socket_at_end_of_stream(int listener, int client) {
    char byte;
    int fd = peer_accept(listener);
    shutdown(client, SHUT_WR);
    if (recv(fd, &byte, sizeof byte, 0) != 0)
        errx(EXIT_FAILURE, "end of stream expected");
    return fd;
}

int main(void) {
    uint16_t port;
    int listener = peer_listen(&port);
    int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int number = -1;

    for (int round = 1; round <= ROUNDS; round++) {
        int client = peer_connect(port);
        int fd = socket_at_end_of_stream(listener, client);
        if (number < 0)
            number = fd;
        same_number(fd, number);

        if (round % 2 == 1) {
            int pipe_fds[2];
            close(fd);
            if (pipe2(pipe_fds, O_CLOEXEC) != 0)
                err(EXIT_FAILURE, "pipe2");
            same_number(pipe_fds[0], number);
            close(pipe_fds[1]);
        }
        same_number(dup2(file, number), number);
        close(client);
        if (round < ROUNDS)
            close(number);
    }
    close(file);
    close(listener);
    printf("%d sockets were fd %d\n", ROUNDS, number);
    return EXIT_SUCCESS;
}
