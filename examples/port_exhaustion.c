/*
 * Clean, and yet at its end: a client that opens a connection for each question and closes it
 * first, in a network whose ephemeral range has 16 ports. Each stays in TIME_WAIT for 60 s, and the
 * seventeenth connect, seldom a later one, fails: EADDRNOTAVAIL. In real life 28,232 ports do.
 *
 * Makes a network namespace of its own; where that is not permitted, it says so and ends with 77.
 *
 * expect: nothing
 * exhausted: no free port for 127.0.0.1:80
 */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>

enum {
    ASKS_MAX = 64
};

static void set(const char *path, const char *value) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        err(77, "%s cannot be set", path);
    close(fd);
}

static void make_small_network(void) {
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        err(77, "no network namespace of its own");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &loopback) != 0)
        err(77, "loopback cannot be brought up");
    close(fd);
    set("/proc/sys/net/ipv4/ip_local_port_range", "50000 50015");
    set("/proc/sys/net/ipv4/tcp_tw_reuse", "0"); /* on loopback it is 2: a second is enough */
}

/* Closes each connection when its client has. */
static void *server(void *arg) {
    for (int client; (client = accept4(*(const int *)arg, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
        while (recv(client, &(char){0}, 1, 0) > 0)
            ;
        close(client);
    }
    return NULL;
}

/* Returns 0, or -1 when no port is left. */
CALL_SITE static int ask(const struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int status = connect(fd, (const struct sockaddr *)address, sizeof *address);
    if (status != 0 && errno != EADDRNOTAVAIL)
        err(EXIT_FAILURE, "connect");
    shutdown(fd, SHUT_WR); /* first: TIME_WAIT is on this side */
    while (status == 0 && recv(fd, &(char){0}, 1, 0) > 0)
        ;
    close(fd);
    return status;
}

int main(void) {
    struct sockaddr_in address = peer_address(80); /* the range must not lose a port to it */
    int asked = 0;
    make_small_network();
    alarm(PEER_DEADLINE_S);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 8) != 0)
        err(EXIT_FAILURE, "cannot listen");
    peer_start(server, &listener);
    while (asked < ASKS_MAX && ask(&address) == 0)
        asked++;
    puts(asked < ASKS_MAX ? "asked until no port was free" : "there is always a free port");
    return EXIT_SUCCESS;
}
