/*
 * What the examples need besides their bug: a loopback listener, a well-behaved peer, and a way to
 * wait until the kernel is where the example wants it.
 *
 * The peer always closes what it opens. A call that fails ends the example with status 1 and a line
 * on stderr, and one that hangs ends it by SIGALRM after PEER_DEADLINE_S, so no function here
 * returns an error.
 */
#ifndef SOCKLEAK_EXAMPLES_PEER_H
#define SOCKLEAK_EXAMPLES_PEER_H

/* For accept4, pipe2 and close_range; so an example includes this header before any other. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PEER_DEADLINE_S = 5
};

/*
 * Longer than the library's exit_grace_ms (100): a socket that has been in its state for so long
 * has no excuse left when the process ends.
 */
enum {
    PAST_GRACE_MS = 150
};

/*
 * Marks a function that a report must show by its name: it is neither inlined nor cloned under
 * another one. The function must also use the result of its interesting call, or that becomes a
 * tail call and the frame is gone.
 */
#ifdef __clang__
#define CALL_SITE __attribute__((noinline))
#else
#define CALL_SITE __attribute__((noinline, noclone))
#endif

/*
 * Returns n, hidden from the optimizer. An unrolled loop would have several call sites, and what it
 * leaks would be several findings; a loop up to opaque(n) keeps one.
 */
static inline int opaque(int n) {
    __asm__("" : "+r"(n));
    return n;
}

static inline struct sockaddr_in peer_address(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

/*
 * Returns a socket that listens on 127.0.0.1, on a free port stored in *port (host byte order). The
 * caller closes it. Also starts the deadline of this process.
 */
static inline int peer_listen(uint16_t *port) {
    struct sockaddr_in address = peer_address(0);
    socklen_t size = sizeof address;

    alarm(PEER_DEADLINE_S);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        err(EXIT_FAILURE, "cannot listen on 127.0.0.1");
    *port = ntohs(address.sin_port);
    return fd;
}

/* Returns a new socket connected to 127.0.0.1:port. The caller closes it. */
static inline int peer_connect(uint16_t port) {
    const struct sockaddr_in address = peer_address(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        err(EXIT_FAILURE, "cannot connect to 127.0.0.1:%u", port);
    return fd;
}

/* Returns the listener's next connection, where no report must show who took it. The caller closes
 * it. */
static inline int peer_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        err(EXIT_FAILURE, "cannot accept");
    return fd;
}

/* Sends all len_bytes, however many calls that takes; never raises SIGPIPE. */
static inline void peer_send(int fd, const char *data, size_t len_bytes) {
    while (len_bytes > 0) {
        ssize_t sent = send(fd, data, len_bytes, MSG_NOSIGNAL);
        if (sent < 0)
            err(EXIT_FAILURE, "cannot send");
        data += sent;
        len_bytes -= (size_t)sent;
    }
}

/*
 * Receives up to the first newline, byte by byte, so that nothing behind it is taken. Stops early
 * at end of stream or when line[size_bytes] is full; always terminates it. Returns its length in
 * bytes.
 */
static inline size_t peer_recv_line(int fd, char *line, size_t size_bytes) {
    size_t used = 0;
    while (used + 1 < size_bytes && (used == 0 || line[used - 1] != '\n')) {
        ssize_t got = recv(fd, line + used, 1, 0);
        if (got < 0)
            err(EXIT_FAILURE, "cannot receive");
        if (got == 0)
            break;
        used++;
    }
    line[used] = '\0';
    return used;
}

/*
 * One whole client: connects, sends the question (a line), waits for a line of answer, closes. The
 * answer was read completely, so the close sends a FIN and not a RST, provided that the answer has
 * no second line.
 */
static inline void peer_ask(uint16_t port, const char *question) {
    char answer[128];
    int fd = peer_connect(port);
    peer_send(fd, question, strlen(question));
    if (peer_recv_line(fd, answer, sizeof answer) == 0)
        errx(EXIT_FAILURE, "no answer to %s", question);
    close(fd);
}

/* Sends back what comes, up to end of stream. */
static inline void peer_echo(int fd) {
    char data[64];
    ssize_t got;
    while ((got = recv(fd, data, sizeof data, 0)) > 0)
        peer_send(fd, data, (size_t)got);
}

/* Starts the peer on a thread of its own; the caller joins it. */
static inline pthread_t peer_start(void *(*body)(void *), void *arg) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, arg) != 0)
        errx(EXIT_FAILURE, "cannot start a thread");
    return thread;
}

/* fork(), with a deadline for the child too: fork clears a pending alarm. The parent waits for it.
 */
static inline pid_t peer_fork(void) {
    pid_t pid = fork();
    if (pid < 0)
        err(EXIT_FAILURE, "cannot fork");
    if (pid == 0)
        alarm(PEER_DEADLINE_S);
    return pid;
}

static inline uint64_t peer_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/*
 * Waits until the TCP socket fd is in the state (TCP_CLOSE_WAIT, ...) and has been for age_ms. The
 * age of TCP_CLOSE_WAIT is the kernel's: the time since the FIN came (tcpi_last_ack_recv), so this
 * side must not have sent since. The age of another state counts from when this call first saw it.
 */
static inline void peer_wait_state(int fd, int state, unsigned age_ms) {
    const struct timespec tick = {.tv_nsec = 2 * 1000 * 1000};
    uint64_t reached_ms = 0;

    for (;;) {
        struct tcp_info info;
        socklen_t size = sizeof info;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
            err(EXIT_FAILURE, "TCP_INFO of fd %d", fd);
        if (info.tcpi_state == state) {
            const uint64_t now_ms = peer_now_ms();
            if (reached_ms == 0)
                reached_ms = now_ms;
            if ((state == TCP_CLOSE_WAIT ? info.tcpi_last_ack_recv : now_ms - reached_ms) >= age_ms)
                return;
        }
        nanosleep(&tick, NULL);
    }
}

#endif
