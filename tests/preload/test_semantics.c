// libc's semantics to the letter: the same program prints the same results and errno with the
// library and without it. Each scenario writes a transcript; the test compares the two.
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

// Prints a call's result and the errno behind it. 4711 stands where errno was not touched.
#define SAY(call)                                                                                  \
    do {                                                                                           \
        errno = 4711;                                                                              \
        long said = (long)(call);                                                                  \
        int error = errno;                                                                         \
        printf("%s = %ld errno %d\n", #call, said, error);                                         \
    } while (0)

// Each sees to it that there is a ledger first: the hooks then do all that they ever do.
static int a_socket(void) {
    return socket(AF_INET, SOCK_STREAM, 0);
}

static void *nowhere(void) { // an address that no one may read or write
    return mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int failing_creations(void) {
    int fds[2] = {-7, -7}, listener = rig_listen();
    socklen_t negative = (socklen_t)-1;
    struct sockaddr_storage address;
    SAY(socket(-1, SOCK_STREAM, 0));
    SAY(socket(AF_INET, SOCK_STREAM, 12345));
    SAY(socket(AF_INET, 4242, 0));
    SAY(socketpair(AF_INET, SOCK_STREAM, 0, fds));
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 77, fds));
    printf("%d %d\n", fds[0], fds[1]);
    SAY(accept(-1, NULL, NULL));
    SAY(accept(0, NULL, NULL));
    SAY(accept(a_socket(), NULL, NULL));
    SAY(accept4(listener, NULL, NULL, 1 << 30));
    fcntl(listener, F_SETFL, O_NONBLOCK);
    SAY(accept(listener, NULL, NULL));
    SAY(accept4(listener, (struct sockaddr *)&address, &negative, 0));
    close(rig_quiet_connect(listener));
    SAY(accept4(listener, (struct sockaddr *)&address, &negative, 0));
    return 0;
}

static int failing_connects(void) {
    struct sockaddr_in dead = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un no_file = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
    int fd = a_socket();
    SAY(connect(-1, (struct sockaddr *)&dead, sizeof dead));
    SAY(connect(0, (struct sockaddr *)&dead, sizeof dead));
    SAY(connect(fd, nowhere(), sizeof dead));
    SAY(connect(fd, NULL, 0));
    SAY(connect(fd, (struct sockaddr *)&dead, 3));
    SAY(connect(fd, (struct sockaddr *)&no_file, sizeof no_file));
    SAY(connect(fd, (struct sockaddr *)&dead, sizeof dead));
    SAY(connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&no_file, sizeof no_file));
    SAY(shutdown(-1, SHUT_RD));
    SAY(shutdown(0, SHUT_RD));
    SAY(shutdown(a_socket(), SHUT_RDWR));
    SAY(shutdown(a_socket(), 17));
    return 0;
}

static int failing_reads(void) {
    char buffer[8];
    int fd = a_socket(), pair[2], null = open("/dev/null", O_WRONLY);
    struct iovec part = {buffer, sizeof buffer}, bad = {nowhere(), 8};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct mmsghdr messages[1] = {{.msg_hdr = message}};
    int negative = -1;
    USE(negative);
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    SAY(read(-1, buffer, 8));
    SAY(read(null, buffer, 8));
    SAY(read(fd, buffer, 8));
    SAY(read(pair[0], buffer, 8));
    SAY(read(pair[0], buffer, 0));
    SAY(readv(-1, &part, 1));
    SAY(readv(pair[0], &part, negative));
    SAY(readv(pair[0], nowhere(), 1));
    SAY(readv(pair[0], nowhere(), 0));
    SAY(preadv2(pair[0], &part, 1, -1, 0));
    SAY(preadv2(pair[0], &part, 1, 0, 0));
    SAY(recv(-1, buffer, 8, 0));
    SAY(recv(null, buffer, 8, 0));
    SAY(recv(pair[0], buffer, 8, MSG_DONTWAIT));
    SAY(recv(fd, buffer, 8, 0));
    SAY(recvfrom(pair[0], buffer, 8, 0, NULL, NULL));
    SAY(recvmsg(pair[0], &message, 0));
    SAY(recvmsg(pair[0], nowhere(), 0));
    SAY(recvmsg(-1, &message, 0));
    SAY(recvmmsg(pair[0], messages, 1, 0, NULL));
    SAY(recvmmsg(pair[0], nowhere(), 1, 0, NULL));
    SAY(splice(pair[0], NULL, null, NULL, 8, 0));
    SAY(splice(-1, NULL, null, NULL, 8, 0));
    SAY(write(pair[1], "x", 1));
    SAY(read(pair[0], nowhere(), 8));
    SAY(readv(pair[0], &bad, 1));
    SAY(recv(pair[0], buffer, 8, MSG_PEEK));
    SAY(read(pair[0], buffer, 8));
    close(pair[1]);
    SAY(read(pair[0], nowhere(), 8)); // at end of stream nothing is written
    SAY(read(pair[0], buffer, 8));
    SAY(recv(pair[0], buffer, 8, MSG_PEEK));
    SAY(readv(pair[0], &bad, 1));
    return 0;
}

static int duplicates_and_closes(void) {
    int fd = a_socket();
    printf("socket %d\n", fd);
    SAY(dup(fd));
    SAY(dup(-1));
    SAY(dup(99));
    SAY(dup2(fd, 20));
    SAY(dup2(fd, fd));
    SAY(dup2(fd, -1));
    SAY(dup2(-1, fd));
    SAY(dup2(99, 99));
    SAY(dup2(fd, 1 << 30));
    SAY(dup3(fd, 21, O_CLOEXEC));
    SAY(fcntl(21, F_GETFD));
    SAY(dup3(fd, fd, 0));
    SAY(dup3(fd, 22, 12345));
    SAY(fcntl(fd, F_DUPFD, 30));
    SAY(fcntl(fd, F_DUPFD_CLOEXEC, 30));
    SAY(fcntl(fd, F_DUPFD, -1));
    SAY(fcntl(-1, F_DUPFD, 0));
    SAY(fcntl64(fd, F_DUPFD, 40));
    SAY(close(40));
    SAY(close(40));
    SAY(close(-1));
    SAY(close(1 << 30));
    SAY(close_range(30, 31, 0));
    SAY(close_range(31, 30, 0));
    SAY(close_range(30, 31, 1 << 20));
    SAY(close_range(20, 21, CLOSE_RANGE_CLOEXEC));
    SAY(fcntl(20, F_GETFD));
    SAY(fcntl(fd, F_GETFD));
    SAY(fclose(fdopen(20, "r+")));
    SAY(close(20));
    closefrom(4);
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(4, F_GETFD));
    closefrom(-5);
    return 3;
}

// fcntl's third argument is an int, a pointer or not there.
static int every_form_of_fcntl(void) {
    int fd = a_socket(), file = fileno(tmpfile());
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    struct f_owner_ex owner = {F_OWNER_PID, getpid()};
    SAY(fcntl(fd, F_GETFL));
    SAY(fcntl(fd, F_SETFL, O_NONBLOCK));
    SAY(fcntl(fd, F_GETFL));
    SAY(fcntl(fd, F_SETFD, FD_CLOEXEC));
    SAY(fcntl64(fd, F_GETFD));
    SAY(fcntl(file, F_SETLK, &lock));
    SAY(fcntl(file, F_GETLK, &lock));
    printf("lock type %d\n", lock.l_type);
    SAY(fcntl64(file, F_OFD_GETLK, &lock));
    SAY(fcntl(fd, F_SETOWN_EX, &owner));
    owner.pid = 0;
    SAY(fcntl(fd, F_GETOWN_EX, &owner));
    printf("owner %d\n", owner.pid == getpid());
    SAY(fcntl(fd, F_GETOWN) == getpid());
    SAY(fcntl(fd, 987654, 0));
    SAY(fcntl(fd, F_GETLK, NULL));
    return 0;
}

static int stdio_over_sockets(void) {
    int fd = a_socket(), pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    FILE *stream = fdopen(pair[0], "r+");
    SAY(fputs("hello", stream) >= 0);
    SAY(fclose(stream));
    char buffer[8] = "";
    SAY(read(pair[1], buffer, 8));
    printf("%.5s\n", buffer);
    stream = fdopen(fd, "r+");
    stream = freopen("/dev/null", "w", stream);
    printf("reopened on %d\n", fileno(stream));
    stream = freopen64("/dev/zero", "r", stream);
    printf("reopened on %d\n", fileno(stream));
    stream = freopen("/nonexistent/file", "r", stream); // closes it, too
    SAY(stream == NULL);
    SAY(fcntl(fd, F_GETFD));
    FILE *memory = fmemopen(NULL, 10, "w"); // a stream without a descriptor
    SAY(fclose(memory));
    SAY(fcloseall());
    SAY(fcntl(pair[1], F_GETFD) >= 0); // glibc's fcloseall closes no descriptor
    return 0;
}

// A successful call leaves errno as it was: no hook lets its own failures shine through.
static int errno_after_success(void) {
    char buffer[8];
    int listener = rig_listen();
    struct rig_tcp pair = rig_tcp_pair();
    SAY(a_socket());
    int client = rig_quiet_connect(listener);
    SAY(accept(listener, NULL, NULL));
    SAY(write(pair.client, "ab", 2));
    SAY(read(pair.server, buffer, 1));
    SAY(recv(pair.server, buffer, 8, 0));
    close(pair.client);
    SAY(recv(pair.server, buffer, 8, 0));
    SAY(shutdown(pair.server, SHUT_RDWR));
    SAY(dup(pair.server));
    SAY(close(pair.server));
    SAY(close(client));
    int event = eventfd(1, 0);
    SAY(read(event, buffer, 8));
    return 0;
}

static const struct rig_scenario scenarios[] = {
    {"failing_creations", failing_creations},
    {"failing_connects", failing_connects},
    {"failing_reads", failing_reads},
    {"duplicates_and_closes", duplicates_and_closes},
    {"every_form_of_fcntl", every_form_of_fcntl},
    {"stdio_over_sockets", stdio_over_sockets},
    {"errno_after_success", errno_after_success},
};

static void same_as_bare(void **state) {
    rig_assert_same_as_bare(*state, NULL, NULL);
}

static void same_as_bare_with_a_ledger_file(void **state) {
    rig_assert_same_as_bare(*state, rig_ledger_options(NULL), NULL);
}

int main(int argc, char **argv) {
    enum {
        COUNT = sizeof scenarios / sizeof *scenarios
    };
    rig_start(argc, argv, scenarios, COUNT);
    struct CMUnitTest tests[2 * COUNT];
    for (int i = 0; i < 2 * COUNT; i++)
        tests[i] = (struct CMUnitTest){
            .name = scenarios[i % COUNT].name,
            .test_func = i < COUNT ? same_as_bare : same_as_bare_with_a_ledger_file,
            .initial_state = (void *)(uintptr_t)scenarios[i % COUNT].name,
        };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
