// What the bench measures, one subcommand each. Bare and preloaded it does exactly the same; what
// it prints is its own measurement.
//
//   workload life COUNT DEPTH   loopback connections, both ends in this process, opened and closed
//   at
//                               that many frames deep; prints nanoseconds of processor time for
//                               each
//   workload recv COUNT         successful one-byte recv calls on one connection
//   workload idle               no socket at all: waits for a line on stdin
//   workload open COUNT         that many open connections, then waits for a line on stdin
//   workload leak COUNT         that many sockets left in CLOSE_WAIT, end of stream read; then main
//                               returns. Prints the nanoseconds of CLOCK_MONOTONIC at which it does
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// Processor time of this process, user and system: what a busy machine does not add to.
static uint64_t cpu_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static struct sockaddr_in address;

static int listen_on_loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t bytes = sizeof address;
    address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, bytes) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &bytes) < 0)
        die("listen");
    return fd;
}

static int connect_to_it(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect");
    return fd;
}

static int accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("accept4");
    return fd;
}

// One connection's life: connect, accept, one byte, the client's FIN, the end of stream that the
// server reads, the server's FIN, both closed.
static void one_life(int listener) {
    char byte = 'x';
    int client = connect_to_it();
    int server = accept_one(listener);
    if (send(client, &byte, 1, 0) != 1 || recv(server, &byte, 1, 0) != 1)
        die("one byte");
    close(client);
    if (recv(server, &byte, 1, 0) != 0)
        die("end of stream");
    close(server);
}

__attribute__((noinline)) static int at_depth(int depth, int listener) {
    volatile int frames = depth; // keeps the call from being a jump
    if (depth > 0)
        return at_depth(depth - 1, listener) + frames;
    one_life(listener);
    return frames;
}

static int life(int count, int depth) {
    int listener = listen_on_loopback(), sum = 0;
    for (int i = 0; i < 100; i++)
        sum += at_depth(depth, listener);
    uint64_t begun = cpu_ns();
    for (int i = 0; i < count; i++)
        sum += at_depth(depth, listener);
    printf("%.1f\n", (double)(cpu_ns() - begun) / count);
    return sum < 0;
}

static int receive(int count) {
    int listener = listen_on_loopback();
    int client = connect_to_it(), server = accept_one(listener);
    char bytes[4096] = {0};
    for (int done = 0; done < count;) {
        int part = count - done < 4096 ? count - done : 4096;
        if (send(client, bytes, (size_t)part, 0) != part)
            die("send");
        for (int i = 0; i < part; i++)
            if (recv(server, bytes, 1, 0) != 1)
                die("recv");
        done += part;
    }
    return 0;
}

static void allow_files(int count) {
    struct rlimit limit = {(rlim_t)count, (rlim_t)count};
    struct rlimit now;
    if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur < limit.rlim_cur &&
        setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

static int wait_for_a_line(void) {
    puts("ready");
    fflush(stdout);
    return getchar() == EOF;
}

static int keep_open(int count) {
    allow_files(2 * count + 64);
    int listener = listen_on_loopback();
    for (int i = 0; i < count; i++) {
        connect_to_it();
        accept_one(listener);
    }
    return wait_for_a_line();
}

static int leak(int count) {
    allow_files(count + 64);
    int listener = listen_on_loopback();
    for (int i = 0; i < count; i++) {
        char byte;
        int client = connect_to_it();
        int server = accept_one(listener);
        close(client);
        if (recv(server, &byte, 1, 0) != 0)
            die("leak");
    }
    printf("%llu\n", (unsigned long long)now_ns());
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int count = argc > 2 ? atoi(argv[2]) : 0;
    if (strcmp(what, "life") == 0)
        return life(count, argc > 3 ? atoi(argv[3]) : 0);
    if (strcmp(what, "recv") == 0)
        return receive(count);
    if (strcmp(what, "idle") == 0)
        return wait_for_a_line();
    if (strcmp(what, "open") == 0)
        return keep_open(count);
    if (strcmp(what, "leak") == 0)
        return leak(count);
    fprintf(stderr, "workload: '%s' is not life, recv, idle, open or leak\n", what);
    return 2;
}
