// syscall(2) by number: births and peers as by libc's functions, arguments passed through whole,
// errno as libc sets it. (Ends of stream by number: test_end_of_stream.c; deaths: test_deaths.c;
// exit_group: test_ends.c.)
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void assert_born(long fd, enum ledger_call call) {
    assert_true(fd >= 0);
    assert_true(view_is_tracked((int)fd));
    assert_int_equal(view_record((int)fd)->birth_call, call);
}

SITE_RANGE(raw_socket);
SITE(raw_socket) static long raw_socket(void) {
    long fd = syscall(SYS_socket, (long)AF_INET, (long)SOCK_STREAM, 0L);
    USE(fd);
    return fd;
}

static void socket_and_socketpair_by_number_are_births(void **state) {
    (void)state;
    long fd = raw_socket();
    assert_born(fd, CALL_SOCKET);
    assert_true(IN_SITE(raw_socket, view_frame(view_record((int)fd)->birth_stack, 0)));
    int pair[2];
    assert_int_equal(syscall(SYS_socketpair, (long)AF_UNIX, (long)SOCK_STREAM, 0L, pair), 0);
    assert_born(pair[0], CALL_SOCKETPAIR);
    assert_born(pair[1], CALL_SOCKETPAIR);
    close((int)fd);
    close(pair[0]);
    close(pair[1]);
}

static void connect_by_number_knows_the_peer_and_accept_fills_it_in(void **state) {
    (void)state;
    int listener = rig_listen();
    struct sockaddr_in address, peer = {0};
    socklen_t bytes = sizeof address, room = sizeof peer;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    for (int round = 0; round < 3; round++) {
        long client = raw_socket();
        assert_int_equal(syscall(SYS_connect, client, &address, (long)sizeof address), 0);
        assert_int_equal(view_record((int)client)->peer.port, ntohs(address.sin_port));
        long fd = round == 0   ? syscall(SYS_accept, (long)listener, &peer, &room)
                  : round == 1 ? syscall(SYS_accept4, (long)listener, &peer, &room, 0L)
                               : syscall(SYS_accept4, (long)listener, 0L, 0L, (long)SOCK_CLOEXEC);
        assert_born(fd, round ? CALL_ACCEPT4 : CALL_ACCEPT);
        if (round < 2)
            assert_int_equal(peer.sin_family, AF_INET);
        close((int)client);
        close((int)fd);
    }
    close(listener);
}

static void pidfd_getfd_by_number_is_a_birth(void **state) {
    (void)state;
    long pidfd = syscall(SYS_pidfd_open, (long)getpid(), 0L), fd = raw_socket();
    long got = syscall(SYS_pidfd_getfd, pidfd, fd, 0L);
    if (got < 0)
        skip(); // a kernel before 5.6, or a container that forbids it
    assert_born(got, CALL_PIDFD_GETFD);
    close((int)got);
    close((int)fd);
    close((int)pidfd);
}

static void recvmsg_by_number_receives_rights(void **state) {
    (void)state;
    for (int round = 0; round < 2; round++) {
        int channel[2], got;
        long fd = raw_socket();
        char byte = 'x', control[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec part = {&byte, 1};
        struct mmsghdr message = {.msg_hdr = {.msg_iov = &part,
                                              .msg_iovlen = 1,
                                              .msg_control = control,
                                              .msg_controllen = sizeof control}};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message.msg_hdr);
        *head = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        got = (int)fd;
        memcpy(CMSG_DATA(head), &got, sizeof got);
        assert_int_equal(sendmsg(channel[0], &message.msg_hdr, 0), 1);
        memset(control, 0, sizeof control);
        long n = round ? syscall(SYS_recvmmsg, channel[1], &message, 1L, 0L, 0L)
                       : syscall(SYS_recvmsg, channel[1], &message.msg_hdr, 0L);
        assert_int_equal(n, 1);
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message.msg_hdr)), sizeof got);
        assert_born(got, round ? CALL_RECVMMSG : CALL_RECVMSG);
        close(got);
        close((int)fd);
        close(channel[0]);
        close(channel[1]);
    }
}

// --- as bare ------------------------------------------------------------------------------------

#define SAY(call)                                                                                  \
    do {                                                                                           \
        errno = 4711;                                                                              \
        long said = (call);                                                                        \
        int error = errno;                                                                         \
        printf("%s = %ld errno %d\n", #call, said, error);                                         \
    } while (0)

static int arguments_and_errno(void) {
    static char buffer[16];
    long fd = raw_socket();
    SAY(syscall(SYS_close, -1L));
    SAY(syscall(SYS_read, -1L, buffer, 1L));
    SAY(syscall(SYS_read, fd, buffer, 1L));
    SAY(syscall(SYS_recvfrom, fd, buffer, 1L, 0L, 0L, 0L));
    SAY(syscall(SYS_recvmsg, fd, 8L, 0L));
    SAY(syscall(SYS_recvmmsg, fd, 8L, 1L, 0L, 0L));
    SAY(syscall(SYS_readv, fd, 8L, 1L));
    SAY(syscall(SYS_connect, fd, 8L, 16L));
    SAY(syscall(SYS_accept4, fd, 0L, 0L, 1L << 30));
    SAY(syscall(SYS_shutdown, fd, 2L));
    SAY(syscall(SYS_dup, -1L));
    SAY(syscall(SYS_dup3, fd, fd, 0L));
    SAY(syscall(SYS_dup3, fd, 50L, 0L));
    SAY(syscall(SYS_fcntl, fd, (long)F_GETFD));
    SAY(syscall(SYS_fcntl, fd, (long)F_SETFD, (long)FD_CLOEXEC));
    SAY(syscall(SYS_fcntl, fd, (long)F_GETFD));
    SAY(syscall(SYS_close_range, 50L, 50L, 0L));
    SAY(syscall(SYS_fcntl, 50L, (long)F_GETFD));
    SAY(syscall(123456L));
    SAY(syscall(-1L));
    SAY(syscall(SYS_clone3, 0L, 0L));
    SAY(syscall(SYS_clone3, 8L, 4L));
    // Six arguments arrive.
    int file = (int)syscall(SYS_memfd_create, "test", 0L);
    ftruncate(file, 3 * 4096);
    pwrite(file, "sixth", 5, 2 * 4096);
    char *mapped = (char *)syscall(SYS_mmap, 0L, 4096L, (long)PROT_READ, (long)MAP_PRIVATE,
                                   (long)file, 2 * 4096L);
    printf("%.5s\n", mapped);
    SAY(syscall(SYS_close, fd));
    return 0;
}

static int children(void) {
    raw_socket();
    fflush(stdout);
    long pid = syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        syscall(SYS_exit_group, 33L);
        _exit(1);
    }
    int status = 0;
    waitpid((pid_t)pid, &status, 0);
    printf("clone %#x\n", (unsigned)status);
#ifdef SYS_fork
    fflush(stdout);
    pid = syscall(SYS_fork);
    if (pid == 0)
        syscall(SYS_exit, 34L);
    waitpid((pid_t)pid, &status, 0);
    printf("fork %#x\n", (unsigned)status);
#endif
    return 0;
}

static void results_and_errno_are_as_bare(void **state) {
    (void)state;
    rig_assert_same_as_bare("arguments_and_errno", NULL, NULL);
    rig_assert_same_as_bare("children", NULL, NULL);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {{"arguments_and_errno", arguments_and_errno},
                                                    {"children", children}};
    rig_start(argc, argv, scenarios, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(socket_and_socketpair_by_number_are_births),
        cmocka_unit_test(connect_by_number_knows_the_peer_and_accept_fills_it_in),
        cmocka_unit_test(pidfd_getfd_by_number_is_a_birth),
        cmocka_unit_test(recvmsg_by_number_receives_rights),
        cmocka_unit_test(results_and_errno_are_as_bare),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
