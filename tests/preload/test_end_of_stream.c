// End of stream: each call that can tell it records who was told, where and when. And what looks
// like it, a read that returns 0 for another reason, records nothing.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t __read(int fd, void *buffer, size_t len);
ssize_t __recv(int fd, void *buffer, size_t len, int flags);
ssize_t __read_chk(int fd, void *buffer, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *buffer, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buffer, size_t len, size_t room, int flags,
                       struct sockaddr *from, socklen_t *bytes);
// Not declared by every glibc; the same call on a 64-bit machine.
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags);

static char buffer[64];
static struct iovec part = {buffer, sizeof buffer};
static int pipe_ends[2];

// Each reads from fd, in its own section; the result is used, so the call is no jump.
#define READER(name, expression)                                                                   \
    SITE_RANGE(name);                                                                              \
    SITE(name) static long name(int fd) {                                                          \
        long n = (expression);                                                                     \
        USE(n);                                                                                    \
        return n;                                                                                  \
    }

static struct msghdr *message(void) {
    static struct msghdr header;
    header = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    return &header;
}

static struct mmsghdr *messages(void) {
    static struct mmsghdr headers[2];
    headers[0].msg_hdr = headers[1].msg_hdr = *message();
    return headers;
}

// The number of messages, or where none but the end of stream came, 0, as the others.
static long bytes_of(int received) {
    return received == 1 ? (long)messages()[0].msg_len * 0 : received;
}

READER(by_read, read(fd, buffer, 64))
READER(by___read, __read(fd, buffer, 64))
READER(by___read_chk, __read_chk(fd, buffer, 64, 64))
READER(by_readv, readv(fd, &part, 1))
READER(by_preadv2, preadv2(fd, &part, 1, -1, 0))
READER(by_preadv64v2, preadv64v2(fd, &part, 1, -1, 0))
READER(by_recv, recv(fd, buffer, 64, 0))
READER(by___recv, __recv(fd, buffer, 64, 0))
READER(by___recv_chk, __recv_chk(fd, buffer, 64, 64, 0))
READER(by_recvfrom, recvfrom(fd, buffer, 64, 0, NULL, NULL))
READER(by___recvfrom_chk, __recvfrom_chk(fd, buffer, 64, 64, 0, NULL, NULL))
READER(by_recvmsg, recvmsg(fd, message(), 0))
READER(by_recvmmsg, bytes_of(recvmmsg(fd, messages(), 1, 0, NULL)))
READER(by_splice, splice(fd, NULL, pipe_ends[1], NULL, 64, 0))
READER(by_peek, recv(fd, buffer, 64, MSG_PEEK))
READER(by_dontwait, recv(fd, buffer, 64, MSG_DONTWAIT))
READER(by_sys_read, syscall(SYS_read, fd, buffer, 64L))
READER(by_sys_readv, syscall(SYS_readv, fd, &part, 1L))
READER(by_sys_preadv2, syscall(SYS_preadv2, fd, &part, 1L, -1L, -1L, 0L))
READER(by_sys_recvfrom, syscall(SYS_recvfrom, fd, buffer, 64L, 0L, 0L, 0L))
READER(by_sys_recvmsg, syscall(SYS_recvmsg, fd, message(), 0L))
READER(by_sys_recvmmsg, bytes_of((int)syscall(SYS_recvmmsg, fd, messages(), 1L, 0L, 0L)))
READER(by_sys_splice, syscall(SYS_splice, fd, 0L, pipe_ends[1], 0L, 64L, 0L))

#define READER_ROW(name, call)                                                                     \
    { #name, name, call, __start_site_##name, __stop_site_##name }

static const struct reader {
    const char *name;
    long (*read)(int fd);
    enum ledger_call call;
    const char *start, *stop;
} readers[] = {
    READER_ROW(by_read, CALL_READ),
    READER_ROW(by___read, CALL_READ),
    READER_ROW(by___read_chk, CALL_READ),
    READER_ROW(by_readv, CALL_READV),
    READER_ROW(by_preadv2, CALL_PREADV2),
    READER_ROW(by_preadv64v2, CALL_PREADV2),
    READER_ROW(by_recv, CALL_RECV),
    READER_ROW(by___recv, CALL_RECV),
    READER_ROW(by___recv_chk, CALL_RECV),
    READER_ROW(by_recvfrom, CALL_RECVFROM),
    READER_ROW(by___recvfrom_chk, CALL_RECVFROM),
    READER_ROW(by_recvmsg, CALL_RECVMSG),
    READER_ROW(by_recvmmsg, CALL_RECVMMSG),
    READER_ROW(by_splice, CALL_SPLICE),
    READER_ROW(by_peek, CALL_RECV),
    READER_ROW(by_dontwait, CALL_RECV),
    READER_ROW(by_sys_read, CALL_READ),
    READER_ROW(by_sys_readv, CALL_READV),
    READER_ROW(by_sys_preadv2, CALL_PREADV2),
    READER_ROW(by_sys_recvfrom, CALL_RECVFROM),
    READER_ROW(by_sys_recvmsg, CALL_RECVMSG),
    READER_ROW(by_sys_recvmmsg, CALL_RECVMMSG),
    READER_ROW(by_sys_splice, CALL_SPLICE),
};

enum {
    READERS = sizeof readers / sizeof *readers
};

static void assert_no_end(int fd) {
    assert_true(view_is_tracked(fd));
    assert_int_equal(view_record(fd)->eof_ns, 0);
    assert_int_equal(view_record(fd)->eof_call, CALL_UNKNOWN);
    assert_int_equal(view_record(fd)->eof_stack, LEDGER_NO_STACK);
}

// Data first: that is no end. Then the FIN.
static void the_end_of_a_tcp_stream_is_recorded(void **state) {
    const struct reader *r = *state;
    struct rig_tcp pair = rig_tcp_pair();
    assert_int_equal(write(pair.client, "data", 4), 4);
    assert_true(r->read(pair.server) >= 0);
    assert_no_end(pair.server);
    read(pair.server, buffer, r->read == by_peek ? sizeof buffer : 0);
    rig_peer_closes(pair);
    assert_no_end(pair.server);
    assert_int_equal(r->read(pair.server), 0);
    const struct ledger_record *record = view_record(pair.server);
    assert_int_not_equal(record->eof_ns, 0);
    assert_int_equal(record->eof_call, r->call);
    assert_int_equal(record->eof_tid, sys_gettid());
    uintptr_t frame = view_frame(record->eof_stack, 0);
    assert_true(frame > (uintptr_t)r->start && frame <= (uintptr_t)r->stop);
    uint64_t first_ns = record->eof_ns;
    read(pair.server, buffer, 1); // the first one counts
    assert_int_equal(view_record(pair.server)->eof_ns, first_ns);
    assert_int_equal(view_record(pair.server)->eof_call, r->call);
    close(pair.server);
}

static void the_end_of_a_unix_stream_is_recorded(void **state) {
    const struct reader *r = *state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    sys_close(pair[1]);
    assert_int_equal(r->read(pair[0]), 0);
    assert_int_equal(view_record(pair[0])->eof_call, r->call);
    close(pair[0]);
}

// A read of no bytes returns 0, and asks nothing.
static void a_read_of_length_0_is_no_end(void **state) {
    (void)state;
    struct iovec empty[2] = {{buffer, 0}, {NULL, 0}};
    struct msghdr nothing = {.msg_iov = empty, .msg_iovlen = 2};
    struct mmsghdr nothings = {.msg_hdr = nothing};
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    int fd = pair.server;
    assert_int_equal(read(fd, buffer, 0), 0);
    assert_int_equal(__read(fd, buffer, 0), 0);
    assert_int_equal(__read_chk(fd, buffer, 0, 64), 0);
    assert_int_equal(readv(fd, empty, 2), 0);
    assert_int_equal(readv(fd, empty, 0), 0);
    assert_int_equal(preadv2(fd, empty, 2, -1, 0), 0);
    assert_int_equal(recv(fd, buffer, 0, 0), 0);
    assert_int_equal(__recv(fd, buffer, 0, 0), 0);
    assert_int_equal(__recv_chk(fd, buffer, 0, 64, 0), 0);
    assert_int_equal(recvfrom(fd, buffer, 0, 0, NULL, NULL), 0);
    assert_int_equal(__recvfrom_chk(fd, buffer, 0, 64, 0, NULL, NULL), 0);
    assert_int_equal(recvmsg(fd, &nothing, 0), 0);
    assert_int_equal(recvmmsg(fd, &nothings, 1, 0, NULL), 1);
    assert_int_equal(splice(fd, NULL, pipe_ends[1], NULL, 0, 0), 0);
    assert_int_equal(syscall(SYS_read, fd, buffer, 0L), 0);
    assert_int_equal(syscall(SYS_readv, fd, empty, 2L), 0);
    assert_int_equal(syscall(SYS_recvmsg, fd, &nothing, 0L), 0);
    assert_no_end(fd);
    close(fd);
}

static void own_shutdown_of_reading_is_no_end(void **state) {
    (void)state;
    for (int i = 0; i < READERS; i++) {
        struct rig_tcp pair = rig_tcp_pair();
        assert_int_equal(shutdown(pair.server, SHUT_RD), 0);
        if (readers[i].read != by_splice && readers[i].read != by_sys_splice) {
            // dontwait: without the shutdown this would be EAGAIN
            assert_int_equal(readers[i].read(pair.server), 0);
        }
        assert_int_equal(rig_state(pair.server), TCP_ESTABLISHED);
        assert_no_end(pair.server);
        assert_true(view_record(pair.server)->flags & RECORD_SHUT_RD);
        close(pair.server);
        sys_close(pair.client);
    }
}

// Where the kernel's state tells nothing (AF_UNIX), or tells of the peer's FIN as well.
static void own_shutdown_of_reading_is_remembered(void **state) {
    (void)state;
    int local[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, local), 0);
    assert_int_equal(shutdown(local[0], SHUT_RD), 0);
    assert_int_equal(read(local[0], buffer, 1), 0);
    assert_no_end(local[0]);
    close(local[0]);
    close(local[1]);
    struct rig_tcp pair = rig_tcp_pair();
    assert_int_equal(shutdown(pair.server, SHUT_RD), 0);
    rig_peer_closes(pair);
    assert_int_equal(read(pair.server, buffer, 1), 0);
    assert_no_end(pair.server);
    close(pair.server);
}

static void *open_pair(void *out) {
    *(struct rig_tcp *)out = rig_tcp_pair();
    return NULL;
}

// Another thread's socket: what happened to it meanwhile is the kernel's to say.
static void an_unseen_shutdown_of_reading_is_no_end(void **state) {
    (void)state;
    struct rig_tcp pair;
    pthread_t opener;
    pthread_create(&opener, NULL, open_pair, &pair);
    pthread_join(opener, NULL);
    assert_int_equal(sys_call(SYS_shutdown, pair.server, SHUT_RD, 0, 0, 0, 0), 0);
    assert_int_equal(read(pair.server, buffer, 1), 0);
    assert_no_end(pair.server);
    rig_close_quietly(pair);
}

static int datagram_socket(bool behind_our_back, struct sockaddr_in *address) {
    int fd = behind_our_back ? (int)sys_call(SYS_socket, AF_INET, SOCK_DGRAM, 0, 0, 0, 0)
                             : socket(AF_INET, SOCK_DGRAM, 0);
    socklen_t bytes = sizeof *address;
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)address, bytes), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)address, &bytes), 0);
    return fd;
}

static void a_datagram_of_no_bytes_is_no_end(void **state) {
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct sockaddr_in address;
        int fd = datagram_socket(round == 1, &address);
        for (int i = 0; i < READERS; i++) {
            if (readers[i].call == CALL_SPLICE)
                continue; // datagram sockets cannot be spliced from
            assert_int_equal(sendto(fd, "", 0, 0, (struct sockaddr *)&address, sizeof address), 0);
            assert_int_equal(readers[i].read(fd), 0);
            if (view_record(fd))
                assert_no_end(fd);
            recv(fd, buffer, 1, MSG_DONTWAIT);
        }
        close(fd);
    }
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(send(pair[1], "", 0, 0), 0);
    assert_int_equal(recv(pair[0], buffer, 1, 0), 0);
    assert_no_end(pair[0]);
    close(pair[0]);
    close(pair[1]);
}

static void the_end_of_a_file_is_nothing_to_us(void **state) {
    (void)state;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    uint64_t born = view_ledger()->counters.born;
    assert_int_equal(read(null, buffer, 1), 0);
    assert_int_equal(readv(null, &part, 1), 0);
    assert_int_equal(view_number(null), 0);
    assert_int_equal(view_ledger()->counters.born, born);
    close(null);
}

static void an_end_adopts_a_socket_created_behind_our_back(void **state) {
    (void)state;
    struct rig_tcp pair = rig_tcp_pair();
    close(pair.client);
    int listener = rig_listen(), fd = rig_quiet_connect(listener);
    sys_close(accept(listener, NULL, NULL));
    rig_wait_state(fd, TCP_CLOSE_WAIT, 0);
    assert_int_equal(view_number(fd), 0);
    assert_int_equal(by_recv(fd), 0);
    assert_true(view_is_tracked(fd));
    assert_int_equal(view_record(fd)->provenance, PROVENANCE_ADOPTED);
    assert_int_equal(view_record(fd)->eof_call, CALL_RECV);
    close(fd);
    close(listener);
    close(pair.server);
}

static void a_reset_is_recorded_with_its_errno(void **state) {
    (void)state;
    struct rig_tcp pair = rig_tcp_pair();
    struct linger at_once = {1, 0};
    assert_int_equal(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    sys_close(pair.client);
    rig_wait_state(pair.server, TCP_CLOSE, 0);
    errno = 0;
    assert_int_equal(by_recv(pair.server), -1);
    assert_int_equal(errno, ECONNRESET);
    const struct ledger_record *record = view_record(pair.server);
    assert_int_equal(record->error, ECONNRESET);
    assert_int_equal(record->error_call, CALL_RECV);
    assert_true(IN_SITE(by_recv, view_frame(record->error_stack, 0)));
    assert_int_equal(record->eof_ns, 0);
    close(pair.server);
}

SITE_RANGE(shuts_down);
SITE(shuts_down) static int shuts_down(int fd, int how) {
    int result = shutdown(fd, how);
    USE(result);
    return result;
}

static void shutdown_is_recorded_with_its_direction_and_stack(void **state) {
    (void)state;
    const struct {
        int how, flags;
    } rows[] = {{SHUT_RD, RECORD_SHUT_RD},
                {SHUT_WR, RECORD_SHUT_WR},
                {SHUT_RDWR, RECORD_SHUT_RD | RECORD_SHUT_WR}};
    for (int i = 0; i < 6; i++) {
        struct rig_tcp pair = rig_tcp_pair();
        int how = rows[i % 3].how;
        assert_int_equal(i < 3 ? shuts_down(pair.server, how)
                               : syscall(SYS_shutdown, pair.server, (long)how),
                         0);
        const struct ledger_record *record = view_record(pair.server);
        assert_int_equal(record->flags & (RECORD_SHUT_RD | RECORD_SHUT_WR), rows[i % 3].flags);
        assert_int_not_equal(record->shutdown_ns, 0);
        if (i < 3)
            assert_true(IN_SITE(shuts_down, view_frame(record->shutdown_stack, 0)));
        close(pair.server);
        sys_close(pair.client);
    }
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(shuts_down(fd, SHUT_RDWR), -1); // ENOTCONN
    assert_int_equal(view_record(fd)->shutdown_ns, 0);
    close(fd);
}

int main(int argc, char **argv) {
    enum {
        OTHERS = 10
    };
    rig_start(argc, argv, NULL, 0);
    if (pipe(pipe_ends) != 0)
        return 1;
    struct CMUnitTest tests[OTHERS + 2 * READERS] = {
        cmocka_unit_test(a_read_of_length_0_is_no_end),
        cmocka_unit_test(own_shutdown_of_reading_is_no_end),
        cmocka_unit_test(own_shutdown_of_reading_is_remembered),
        cmocka_unit_test(an_unseen_shutdown_of_reading_is_no_end),
        cmocka_unit_test(a_datagram_of_no_bytes_is_no_end),
        cmocka_unit_test(the_end_of_a_file_is_nothing_to_us),
        cmocka_unit_test(an_end_adopts_a_socket_created_behind_our_back),
        cmocka_unit_test(a_reset_is_recorded_with_its_errno),
        cmocka_unit_test(shutdown_is_recorded_with_its_direction_and_stack),
    };
    int count = OTHERS - 1;
    for (int i = 0; i < READERS; i++) {
        void *row = (void *)(uintptr_t)&readers[i];
        tests[count++] = (struct CMUnitTest){readers[i].name, the_end_of_a_tcp_stream_is_recorded,
                                             NULL, NULL, row};
        tests[count++] = (struct CMUnitTest){readers[i].name, the_end_of_a_unix_stream_is_recorded,
                                             NULL, NULL, row};
    }
    return _cmocka_run_group_tests("end_of_stream", tests, (size_t)count, NULL, NULL);
}
