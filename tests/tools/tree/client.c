// client NAME WORD: says WORD to the server NAME, reads what it answers, and closes. With the word
// `leak` the server closes first, and this program, whose id is then in client.pid, never does.
#define _GNU_SOURCE // usleep
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PAST_GRACE_US = 200000 // of the library's exit_grace_ms: no excuse is left
};

static int number_in(const char *name, const char *suffix) {
    char path[64];
    int number = 0;
    snprintf(path, sizeof path, "%s.%s", name, suffix);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%d", &number) != 1 || fclose(file) != 0)
        err(EXIT_FAILURE, "%s", path);
    return number;
}

__attribute__((noinline)) static int open_connection(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int server = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(server, (struct sockaddr *)&address, sizeof address) != 0)
        err(EXIT_FAILURE, "connect");
    return server;
}

__attribute__((noinline)) static ssize_t read_answer(int server) {
    char answer[16];
    ssize_t got = read(server, answer, sizeof answer);
    return got;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    int server = open_connection(number_in(argv[1], "port"));
    if (write(server, argv[2], strlen(argv[2])) < 0)
        err(EXIT_FAILURE, "write");
    ssize_t got = read_answer(server);
    if (strcmp(argv[2], "leak") != 0)
        return got == (ssize_t)strlen(argv[2]) && close(server) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    FILE *file = fopen("client.pid", "w");
    fprintf(file, "%d\n", getpid());
    fclose(file);
    usleep(PAST_GRACE_US);
    return got == 0 ? EXIT_SUCCESS : EXIT_FAILURE; // BUG: no close(server)
}
