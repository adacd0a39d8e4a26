// Births: each call that brings a socket into the process leaves a record with the kernel's inode,
// the name of the call, and a stack whose frame #0 is the function that called.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

static void assert_born(int fd, enum ledger_call call, enum ledger_provenance provenance) {
    assert_true(fd >= 0);
    assert_true(view_is_tracked(fd));
    const struct ledger_record *record = view_record(fd);
    assert_int_equal(record->birth_call, call);
    assert_int_equal(record->provenance, provenance);
    assert_int_equal(record->birth_tid, sys_gettid());
    assert_int_not_equal(record->birth_ns, 0);
    assert_int_equal(record->eof_ns, 0);
}

#define assert_born_in(site, fd, call, provenance)                                                 \
    do {                                                                                           \
        assert_born(fd, call, provenance);                                                         \
        assert_true(IN_SITE(site, view_frame(view_record(fd)->birth_stack, 0)));                   \
    } while (0)

SITE_RANGE(by_socket);
SITE(by_socket) static int by_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    USE(fd);
    return fd;
}

static void socket_is_a_birth_with_family_type_and_protocol(void **state) {
    (void)state;
    int fd = by_socket();
    assert_born_in(by_socket, fd, CALL_SOCKET, PROVENANCE_CREATED);
    assert_int_equal(view_record(fd)->family, AF_INET);
    assert_int_equal(view_record(fd)->type, SOCK_STREAM);
    assert_int_equal(view_record(fd)->protocol, IPPROTO_TCP);
    close(fd);
}

SITE_RANGE(by_socketpair);
SITE(by_socketpair) static int by_socketpair(int fds[2]) {
    int result = socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
    USE(result);
    return result;
}

static void socketpair_is_two_births(void **state) {
    (void)state;
    int fds[2];
    assert_int_equal(by_socketpair(fds), 0);
    for (int i = 0; i < 2; i++)
        assert_born_in(by_socketpair, fds[i], CALL_SOCKETPAIR, PROVENANCE_CREATED);
    assert_int_not_equal(view_number(fds[0]), view_number(fds[1]));
    close(fds[0]);
    close(fds[1]);
}

SITE_RANGE(by_accept);
SITE(by_accept) static int by_accept(int listener, struct sockaddr_in *peer) {
    socklen_t bytes = sizeof *peer;
    int fd = accept(listener, (struct sockaddr *)peer, peer ? &bytes : NULL);
    USE(fd);
    return fd;
}

SITE_RANGE(by_accept4);
SITE(by_accept4) static int by_accept4(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    USE(fd);
    return fd;
}

static uint16_t port_of(int fd) {
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
    return ntohs(address.sin_port);
}

static void accept_is_a_birth_and_fills_in_the_address(void **state) {
    (void)state;
    int listener = rig_listen(), client = rig_quiet_connect(listener);
    struct sockaddr_in peer;
    int fd = by_accept(listener, &peer);
    assert_born_in(by_accept, fd, CALL_ACCEPT, PROVENANCE_CREATED);
    const struct ledger_record *record = view_record(fd);
    assert_int_equal(peer.sin_port, htons(port_of(client)));
    assert_int_equal(record->type, SOCK_STREAM);
    assert_true(record->flags & RECORD_CONNECTED);
    close(fd);
    close(client);
    close(listener);
}

static void accept4_is_a_birth(void **state) {
    (void)state;
    int listener = rig_listen(), client = rig_quiet_connect(listener), fd = by_accept4(listener);
    assert_born_in(by_accept4, fd, CALL_ACCEPT4, PROVENANCE_CREATED);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    close(client);
    close(listener);
}

// accept(2): "the returned address is truncated if the buffer provided is too small; in this case,
// addrlen will return a value greater than was supplied".
static void accept_into_a_short_address_writes_no_more_than_that(void **state) {
    (void)state;
    int listener = rig_listen(), client = rig_quiet_connect(listener);
    unsigned char room[16];
    memset(room, 0xee, sizeof room);
    socklen_t bytes = 3;
    int fd = accept(listener, (struct sockaddr *)(void *)room, &bytes);
    assert_true(view_is_tracked(fd));
    assert_int_equal(bytes, sizeof(struct sockaddr_in));
    for (size_t i = 3; i < sizeof room; i++)
        assert_int_equal(room[i], 0xee);
    close(fd);
    close(client);
    close(listener);
}

// accept(2), EFAULT: "the addr argument is not in a writable part of the user address space". We
// must not look where the kernel refuses to.
static void accept_with_a_bad_address_fails_as_libc_does(void **state) {
    (void)state;
    // The kernel takes the connection off the queue all the same: one for each.
    int listener = rig_listen();
    int clients[] = {rig_quiet_connect(listener), rig_quiet_connect(listener)};
    struct sockaddr_in address;
    socklen_t *volatile nowhere = (socklen_t *)8;
    errno = 0;
    assert_int_equal(accept(listener, (struct sockaddr *)&address, nowhere), -1);
    assert_int_equal(errno, EFAULT);
    errno = 0;
    assert_int_equal(syscall(SYS_accept4, listener, &address, nowhere, 0), -1);
    assert_int_equal(errno, EFAULT);
    close(clients[0]);
    close(clients[1]);
    close(listener);
}

// --- passed descriptors -------------------------------------------------------------------------

static void send_fds(int to, const int *fds, int count) {
    char byte = 'x', control[CMSG_SPACE(sizeof(int) * 4)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(sizeof(int) * (unsigned)count)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * (unsigned)count);
    memcpy(CMSG_DATA(head), fds, sizeof(int) * (unsigned)count);
    assert_int_equal(sendmsg(to, &message, 0), 1);
}

struct inbox {
    char byte;
    char control[CMSG_SPACE(sizeof(int) * 4)];
    struct iovec part;
    struct mmsghdr message;
};

static struct msghdr *open_inbox(struct inbox *in) {
    memset(in, 0, sizeof *in);
    in->part = (struct iovec){&in->byte, 1};
    in->message.msg_hdr = (struct msghdr){.msg_iov = &in->part,
                                          .msg_iovlen = 1,
                                          .msg_control = in->control,
                                          .msg_controllen = sizeof in->control};
    return &in->message.msg_hdr;
}

static void fds_in(struct inbox *in, int *out, int count) {
    struct cmsghdr *head = CMSG_FIRSTHDR(&in->message.msg_hdr);
    assert_non_null(head);
    assert_int_equal(head->cmsg_len, CMSG_LEN(sizeof(int) * (unsigned)count));
    memcpy(out, CMSG_DATA(head), sizeof(int) * (unsigned)count);
}

SITE_RANGE(by_recvmsg);
SITE(by_recvmsg) static ssize_t by_recvmsg(int fd, struct inbox *in) {
    ssize_t n = recvmsg(fd, open_inbox(in), MSG_CMSG_CLOEXEC);
    USE(n);
    return n;
}

SITE_RANGE(by_recvmmsg);
SITE(by_recvmmsg) static ssize_t by_recvmmsg(int fd, struct inbox *in) {
    open_inbox(in);
    ssize_t n = recvmmsg(fd, &in->message, 1, MSG_CMSG_CLOEXEC, NULL);
    USE(n);
    return n;
}

static void recvmsg_with_rights_is_a_birth_of_sockets_and_of_nothing_else(void **state) {
    (void)state;
    int channel[2], got[3];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
    int one = by_socket(), two = by_socket(), file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    send_fds(channel[0], (int[]){one, file, two}, 3);
    struct inbox in;
    assert_int_equal(by_recvmsg(channel[1], &in), 1);
    fds_in(&in, got, 3);
    assert_born_in(by_recvmsg, got[0], CALL_RECVMSG, PROVENANCE_RECEIVED);
    assert_born_in(by_recvmsg, got[2], CALL_RECVMSG, PROVENANCE_RECEIVED);
    assert_int_equal(view_number(got[1]), 0);
    int all[] = {one, two, file, got[0], got[1], got[2], channel[0], channel[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        close(all[i]);
}

static void recvmmsg_with_rights_is_a_birth(void **state) {
    (void)state;
    int channel[2], got;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
    int fd = by_socket();
    send_fds(channel[0], &fd, 1);
    struct inbox in;
    assert_int_equal(by_recvmmsg(channel[1], &in), 1);
    fds_in(&in, &got, 1);
    assert_born_in(by_recvmmsg, got, CALL_RECVMMSG, PROVENANCE_RECEIVED);
    close(fd);
    close(got);
    close(channel[0]);
    close(channel[1]);
}

SITE_RANGE(by_pidfd_getfd);
SITE(by_pidfd_getfd) static int by_pidfd_getfd(int pidfd, int target) {
    int fd = pidfd_getfd(pidfd, target, 0);
    USE(fd);
    return fd;
}

static void pidfd_getfd_is_a_birth(void **state) {
    (void)state;
    int pidfd = pidfd_open(getpid(), 0), fd = by_socket();
    int got = pidfd < 0 ? -1 : by_pidfd_getfd(pidfd, fd);
    if (got < 0)
        skip(); // a kernel before 5.6, or a container that forbids it
    assert_born_in(by_pidfd_getfd, got, CALL_PIDFD_GETFD, PROVENANCE_RECEIVED);
    close(got);
    close(fd);
    close(pidfd);
}

// --- connect ------------------------------------------------------------------------------------

static int do_connect(int fd, int listener) {
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    return connect(fd, (struct sockaddr *)&address, bytes);
}

static void connect_records_the_peer(void **state) {
    (void)state;
    int listener = rig_listen(), fd = by_socket();
    fcntl(fd, F_SETFL, 0);
    assert_int_equal(do_connect(fd, listener), 0);
    const struct ledger_record *record = view_record(fd);
    assert_int_equal(record->peer.family, ADDRESS_INET);
    assert_int_equal(record->peer.port, port_of(listener));
    assert_memory_equal(record->peer.ip, ((uint8_t[]){127, 0, 0, 1}), 4);
    assert_true(record->flags & RECORD_CONNECTED);
    assert_true(IN_SITE(by_socket, view_frame(record->birth_stack, 0)));
    close(fd);
    close(listener);
}

static void connect_adopts_a_socket_created_behind_our_back(void **state) {
    (void)state;
    int listener = rig_listen();
    int fd = (int)sys_call(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0);
    assert_int_equal(view_number(fd), 0);
    assert_int_equal(do_connect(fd, listener), 0);
    assert_born(fd, CALL_UNKNOWN, PROVENANCE_ADOPTED);
    assert_int_equal(view_record(fd)->birth_stack, LEDGER_NO_STACK);
    assert_int_equal(view_record(fd)->peer.port, port_of(listener));
    close(fd);
    close(listener);
}

static void a_failed_connect_is_not_connected(void **state) {
    (void)state;
    int listener = rig_listen();
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    close(listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, bytes), -1);
    assert_int_equal(view_record(fd)->flags & (RECORD_CONNECTED | RECORD_CONNECTING), 0);
    close(fd);
}

static void a_reused_number_is_another_socket(void **state) {
    (void)state;
    int fd = by_socket();
    uint64_t first = view_inode(fd);
    sys_close(fd); // behind our back
    int again = by_socket();
    assert_int_equal(again, fd);
    assert_int_not_equal(view_inode(again), first);
    assert_true(view_is_tracked(again));
    close(again);
}

static void a_failed_birth_leaves_no_record(void **state) {
    (void)state;
    uint64_t born = view_ledger()->counters.born;
    assert_int_equal(socket(AF_INET, SOCK_STREAM, 12345), -1);
    int listener = rig_listen();
    assert_int_equal(accept(-1, NULL, NULL), -1);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    assert_int_equal(accept4(listener, NULL, NULL, 0), -1);
    assert_int_equal(view_ledger()->counters.born, born + 1);
    close(listener);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(socket_is_a_birth_with_family_type_and_protocol),
        cmocka_unit_test(socketpair_is_two_births),
        cmocka_unit_test(accept_is_a_birth_and_fills_in_the_address),
        cmocka_unit_test(accept4_is_a_birth),
        cmocka_unit_test(accept_with_a_bad_address_fails_as_libc_does),
        cmocka_unit_test(accept_into_a_short_address_writes_no_more_than_that),
        cmocka_unit_test(recvmsg_with_rights_is_a_birth_of_sockets_and_of_nothing_else),
        cmocka_unit_test(recvmmsg_with_rights_is_a_birth),
        cmocka_unit_test(pidfd_getfd_is_a_birth),
        cmocka_unit_test(connect_records_the_peer),
        cmocka_unit_test(connect_adopts_a_socket_created_behind_our_back),
        cmocka_unit_test(a_failed_connect_is_not_connected),
        cmocka_unit_test(a_reused_number_is_another_socket),
        cmocka_unit_test(a_failed_birth_leaves_no_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
