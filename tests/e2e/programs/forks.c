/*
 * `forks MANNER`: servers of several processes that leak every client. Each prints `port N`, reads
 * its clients to the end, answers them, never closes, and ends by itself when it has served them.
 *
 * per-client  the parent forks a child for each of 4 clients and closes its own copy
 * prefork     3 workers accept 2 clients each on a listener that they inherited
 * inherited   the parent serves 2 clients; then a child is forked, and ends with its copies
 * pass        the parent accepts 3 clients and hands them by SCM_RIGHTS to a worker
 * daemon      serves 1 client, calls daemon(1, 1), and serves 2 more there
 * daemon-quiet  the same with daemon(1, 0): its stderr is /dev/null
 */
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int listener;

__attribute__((noinline)) static int accept_client(void) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        err(1, "accept");
    return fd;
}

__attribute__((noinline)) static void serve(int fd) {
    char data[64];
    ssize_t n;
    while ((n = recv(fd, data, sizeof data, 0)) > 0)
        if (send(fd, data, (size_t)n, MSG_NOSIGNAL) != n)
            err(1, "send");
    if (n < 0)
        err(1, "recv");
    /* BUG: no close(fd) */
}

__attribute__((noinline)) static void serve_clients(int count) {
    for (int i = 0; i < count; i++)
        serve(accept_client());
}

/* Each process ends in time, also where a test gave up: fork clears a pending alarm. */
enum {
    DEADLINE_S = 60
};

static pid_t fork_child(void) {
    pid_t pid = fork();
    if (pid < 0)
        err(1, "fork");
    alarm(DEADLINE_S);
    return pid;
}

static void wait_for_children(void) {
    int status;
    while (wait(&status) > 0)
        if (status != 0)
            errx(1, "a child failed");
}

static void per_client(void) {
    for (int i = 0; i < 4; i++) {
        int client = accept_client();
        if (fork_child() == 0) {
            close(listener);
            serve(client);
            _exit(0);
        }
        close(client);
    }
    wait_for_children();
}

static void prefork(void) {
    for (int i = 0; i < 3; i++)
        if (fork_child() == 0) {
            serve_clients(2);
            exit(0);
        }
    wait_for_children();
}

static void inherited(void) {
    serve_clients(2);
    if (fork_child() == 0)
        exit(0);
    wait_for_children();
}

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
};

static void send_client(int channel, int fd) {
    char byte = 0;
    struct iovec part = {&byte, 1};
    union control control = {{0}};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(channel, &message, 0) != 1)
        err(1, "sendmsg");
}

__attribute__((noinline)) static int receive_client(int channel) {
    char byte;
    int fd;
    struct iovec part = {&byte, 1};
    union control control = {{0}};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    if (recvmsg(channel, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
        err(1, "recvmsg");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void pass(void) {
    int channel[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, channel) != 0)
        err(1, "socketpair");
    if (fork_child() == 0) {
        close(listener);
        close(channel[0]);
        for (int i = 0; i < 3; i++)
            serve(receive_client(channel[1]));
        exit(0);
    }
    close(channel[1]);
    for (int i = 0; i < 3; i++) {
        int client = accept_client();
        send_client(channel[0], client);
        close(client);
    }
    wait_for_children();
}

static void become_daemon(int keep_streams) {
    serve_clients(1);
    FILE *out = fdopen(dup(STDOUT_FILENO), "w"); /* daemon may take stdout away */
    if (daemon(1, keep_streams) != 0)
        err(1, "daemon");
    alarm(DEADLINE_S);
    fprintf(out, "pid %d\n", (int)getpid());
    fflush(out);
    serve_clients(2);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    const char *manner = argc > 1 ? argv[1] : "";
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, bytes) != 0 || listen(listener, 64) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &bytes) != 0)
        err(1, "listen");
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    if (strcmp(manner, "per-client") == 0)
        per_client();
    else if (strcmp(manner, "prefork") == 0)
        prefork();
    else if (strcmp(manner, "inherited") == 0)
        inherited();
    else if (strcmp(manner, "pass") == 0)
        pass();
    else if (strcmp(manner, "daemon") == 0)
        become_daemon(1);
    else if (strcmp(manner, "daemon-quiet") == 0)
        become_daemon(0);
    else
        errx(2, "which manner?");
    return 0;
}
