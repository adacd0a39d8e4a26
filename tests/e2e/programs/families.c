/*
 * `families inet6|mapped|mptcp|unix [in-thread|unread|unread-data]`: a server that reads end of
 * stream of three clients and never closes, over a socket of that kind. With `in-thread` another
 * thread than the one that accepted reads it; with the others nobody does, after an empty stream or
 * one of five bytes. It plays its own clients. Prints `port N` when all clients are gone (0 for
 * unix), and ends when stdin ends. Exit status 77: the kernel has no such sockets.
 */
#include <arpa/inet.h>
#include <err.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum {
    CLIENTS = 3
};

struct kind {
    const char *name;
    int family, protocol;
};

static const struct kind kinds[] = {{"inet6", AF_INET6, 0},
                                    {"mapped", AF_INET6, 0},
                                    {"mptcp", AF_INET, IPPROTO_MPTCP},
                                    {"unix", AF_UNIX, 0}};

static union {
    struct sockaddr any;
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
    struct sockaddr_un local;
} address;
static socklen_t address_bytes;

static void choose_address(const struct kind *kind) {
    address.any.sa_family = (sa_family_t)kind->family;
    if (kind->family == AF_UNIX) {
        address_bytes = sizeof address.local.sun_family; /* autobind: an abstract name */
    } else if (kind->family == AF_INET6) {
        inet_pton(AF_INET6, strcmp(kind->name, "mapped") ? "::1" : "::ffff:127.0.0.1",
                  &address.inet6.sin6_addr);
        address_bytes = sizeof address.inet6;
    } else {
        address.inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address_bytes = sizeof address.inet;
    }
}

__attribute__((noinline)) static int open_socket(const struct kind *kind) {
    int fd = socket(kind->family, SOCK_STREAM, kind->protocol);
    if (fd < 0) {
        warn("socket");
        exit(77);
    }
    return fd;
}

__attribute__((noinline)) static int accept_client(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        err(1, "accept");
    return fd;
}

__attribute__((noinline)) static void serve(int fd) {
    char data[64];
    ssize_t n;
    while ((n = read(fd, data, sizeof data)) > 0)
        if (write(fd, data, (size_t)n) != n)
            err(1, "write");
    if (n < 0)
        err(1, "read");
    /* BUG: no close(fd) */
}

static void *serve_in_thread(void *fd) {
    serve((int)(intptr_t)fd);
    return NULL;
}

static void serve_as(const char *manner, int fd) {
    pthread_t thread;
    if (strcmp(manner, "in-thread") == 0) {
        pthread_create(&thread, NULL, serve_in_thread, (void *)(intptr_t)fd);
        pthread_join(thread, NULL);
    } else if (strncmp(manner, "unread", 6) != 0) {
        serve(fd);
    }
}

int main(int argc, char **argv) {
    const struct kind *kind = NULL;
    const char *manner = argc > 2 ? argv[2] : "";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (argc > 1 && strcmp(argv[1], kinds[i].name) == 0)
            kind = &kinds[i];
    if (!kind)
        errx(2, "which kind?");
    choose_address(kind);

    int listener = open_socket(kind);
    if (bind(listener, &address.any, address_bytes) != 0 || listen(listener, CLIENTS) != 0)
        err(77, "bind");
    address_bytes = sizeof address;
    if (getsockname(listener, &address.any, &address_bytes) != 0)
        err(1, "getsockname");

    volatile int clients = CLIENTS; /* one call site, whatever the optimizer thinks */
    for (int i = 0; i < clients; i++) {
        int client = open_socket(kind);
        if (connect(client, &address.any, address_bytes) != 0)
            err(1, "connect");
        if (strcmp(manner, "unread") != 0 && write(client, "hello", 5) != 5)
            err(1, "write");
        int accepted = accept_client(listener);
        shutdown(client, SHUT_WR);
        serve_as(manner, accepted);
        char answer[64];
        if (strncmp(manner, "unread", 6) != 0 && read(client, answer, sizeof answer) != 5)
            errx(1, "no answer");
        close(client);
    }
    close(listener);
    printf("port %d\n", kind->family == AF_UNIX ? 0 : ntohs(address.inet.sin_port));
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return 0;
}
