/*
 * `many COUNT`: leaks COUNT sockets from one call site. A child is the client: it connects, and
 * closes at once. Prints `port N` when all are in CLOSE_WAIT; when stdin ends it prints `leaving`
 * and ends.
 */
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in address = {.sin_family = AF_INET};

static void client(int count) {
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
            err(1, "connect %d", i);
        close(fd);
    }
    _exit(0);
}

__attribute__((noinline)) static int accept_client(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        err(1, "accept");
    return fd;
}

__attribute__((noinline)) static void serve(int fd) {
    char data[16];
    ssize_t n = read(fd, data, sizeof data);
    if (n != 0)
        err(1, "read");
    /* BUG: no close(fd) */
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 0;
    socklen_t bytes = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, bytes) != 0 || listen(listener, 4096) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &bytes) != 0)
        err(1, "listen");
    pid_t child = fork();
    if (child == 0)
        client(count);
    for (int i = 0; i < count; i++)
        serve(accept_client(listener));
    int status = 1;
    if (waitpid(child, &status, 0) != child || status != 0)
        errx(1, "the client failed");
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    printf("leaving\n");
    fflush(stdout);
    return 0;
}
