// A client for the bench of servers that have none: asks the same question over and over, on
// connections that are kept or on a new one each time, one at a time.
//
//   load PORT SECONDS keep|short QUESTION END
//
// The answer ends with END. In both, \\r and \\n stand for themselves. Prints how many were
// answered.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static size_t unescape(char *text) {
    char *out = text;
    for (const char *in = text; *in; in++)
        if (in[0] == '\\' && (in[1] == 'r' || in[1] == 'n'))
            *out++ = *++in == 'r' ? '\r' : '\n';
        else
            *out++ = *in;
    *out = '\0';
    return (size_t)(out - text);
}

static int open_connection(int port) {
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void ask(int fd, const char *question, size_t len, const char *end, size_t end_len) {
    char answer[4096];
    size_t used = 0;
    if (send(fd, question, len, MSG_NOSIGNAL) != (ssize_t)len)
        die("send");
    // cppcheck-suppress legacyUninitvar ; what is compared has been received: used >= end_len
    while (used < end_len || memcmp(answer + used - end_len, end, end_len) != 0) {
        ssize_t got = recv(fd, answer + used, sizeof answer - used, 0);
        if (got <= 0 || used + (size_t)got == sizeof answer)
            die("recv");
        used += (size_t)got;
    }
}

int main(int argc, char **argv) {
    if (argc != 6 || (strcmp(argv[3], "keep") != 0 && strcmp(argv[3], "short") != 0)) {
        fprintf(stderr, "load: usage: load PORT SECONDS keep|short QUESTION END\n");
        return 2;
    }
    int port = atoi(argv[1]), keep = strcmp(argv[3], "keep") == 0;
    size_t len = unescape(argv[4]), end_len = unescape(argv[5]);
    long answered = 0;
    int fd = keep ? open_connection(port) : -1;
    for (double until = now_s() + atof(argv[2]); now_s() < until; answered++) {
        if (!keep)
            fd = open_connection(port);
        ask(fd, argv[4], len, argv[5], end_len);
        if (!keep)
            close(fd);
    }
    printf("%ld\n", answered);
    return 0;
}
