// server NAME: serves one client after the other on 127.0.0.1, on the port that it writes to
// NAME.port; its process id is in NAME.pid. A client's first word says what becomes of it: `keep`
// leaks it, `leak` is closed at once (the client's turn to leak), another is answered and closed.
//
// By its name: `clean` ends by SIGTERM, `daemon` leaves its session and stays, and `killed` dies by
// SIGKILL when it has read end of stream from three clients that it keeps.
#define _GNU_SOURCE // accept4, daemon
#include <arpa/inet.h>
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    KEPT_BY_KILLED = 3
};

static void end(int number) {
    (void)number;
    exit(EXIT_SUCCESS);
}

static void publish(const char *name, const char *suffix, int number) {
    char path[64], temporary[80];
    snprintf(path, sizeof path, "%s.%s", name, suffix);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *file = fopen(temporary, "w");
    if (!file || fprintf(file, "%d\n", number) < 0 || fclose(file) != 0 ||
        rename(temporary, path) != 0)
        err(EXIT_FAILURE, "%s", path);
}

static int listen_somewhere(int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, len) != 0 || listen(listener, 128) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &len) != 0)
        err(EXIT_FAILURE, "listen");
    *port = ntohs(address.sin_port);
    return listener;
}

__attribute__((noinline)) static int accept_client(int listener) {
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        err(EXIT_FAILURE, "accept4");
    return client;
}

// Answers what comes, to the end of it. Returns whether the client is to be kept.
__attribute__((noinline)) static int serve(int client) {
    char word[16] = "";
    ssize_t got;
    while ((got = recv(client, word, sizeof word, 0)) > 0) {
        if (strncmp(word, "leak", 4) == 0)
            return 0;
        send(client, word, (size_t)got, MSG_NOSIGNAL);
    }
    return strncmp(word, "keep", 4) == 0;
}

int main(int argc, char **argv) {
    int port, kept = 0;
    if (argc != 2)
        return 2;
    if (strcmp(argv[1], "daemon") == 0 && daemon(1, 0) != 0)
        err(EXIT_FAILURE, "daemon");
    signal(SIGTERM, end);
    int listener = listen_somewhere(&port);
    publish(argv[1], "pid", getpid());
    publish(argv[1], "port", port);
    for (;;) {
        int client = accept_client(listener);
        if (!serve(client))
            close(client);
        else if (++kept == KEPT_BY_KILLED && strcmp(argv[1], "killed") == 0)
            raise(SIGKILL);
    }
}
