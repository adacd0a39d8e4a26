/*
 * A server whose helper holds what the server has closed. The connection is accepted without
 * SOCK_CLOEXEC, so a program that is started meanwhile gets a copy of it, and does not know. The
 * server closes properly; but the last descriptor is the helper's, so no FIN goes out, and when the
 * client closes the connection stays in CLOSE_WAIT until the helper ends. In real life the helper
 * is a log shipper that was started by system(), lives for weeks, and appears in no stack.
 *
 * expect: 1 fin-unread birth=unknown eof=- process=child
 * with sockleak run: 1 fin-unread birth=accept4:accept_client eof=- process=child
 * cause: inherited
 */
#include "peer.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

/* What is exec'd: has a connection of its own, and lives until its standard input ends. */
static int helper(const char *port) {
    char end;
    alarm(PEER_DEADLINE_S);
    close(peer_connect((uint16_t)atoi(port)));
    return read(STDIN_FILENO, &end, 1) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static pid_t start_helper(const char *program, uint16_t port, int input) {
    char text[8];
    snprintf(text, sizeof text, "%u", port);
    pid_t pid = peer_fork();
    if (pid == 0) {
        dup2(input, STDIN_FILENO);
        execl(program, program, text, (char *)NULL);
        err(EXIT_FAILURE, "%s", program);
    }
    return pid;
}

CALL_SITE static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, 0); /* BUG: no SOCK_CLOEXEC */
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

int main(int argc, char **argv) {
    uint16_t port;
    int status, pipe_fds[2];
    if (argc > 1)
        return helper(argv[1]);
    int listener = peer_listen(&port);
    if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        err(EXIT_FAILURE, "pipe2");

    int client = peer_connect(port), served = accept_client(listener);
    pid_t pid = start_helper(argv[0], port, pipe_fds[0]);
    close(accept4(listener, NULL, NULL, SOCK_CLOEXEC)); /* the helper's own connection */
    close(client);
    peer_wait_state(served, TCP_CLOSE_WAIT, PAST_GRACE_MS);
    close(served); /* properly; and yet no FIN */

    close(pipe_fds[1]);
    if (waitpid(pid, &status, 0) != pid || status != 0)
        errx(EXIT_FAILURE, "the helper failed");
    close(listener);
    printf("the helper has ended\n");
    return EXIT_SUCCESS;
}
