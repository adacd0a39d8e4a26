// track/tracker: what is told of a connection: end of stream, errors, shutdown, connect. The judge
// of a connection's state is the kernel.
#include "connections.h"
#include "track/unasked.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct ledger_record *record_of(int fd) {
    uint32_t number = ledger_fd(fd);
    assert_int_not_equal(number, 0);
    return ledger_record(number);
}

static void follow_one(void) {
    options_parse(NULL);
    caller = fake_stack_set(1, 4, 0);
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    fake_clock_now_ns = 5000;
}

// --- end of stream ------------------------------------------------------------------------------

ISOLATED(the_peers_fin_is_end_of_stream) {
    follow_one();
    peer_closes(&pair);
    fake_stack_set(1, 7, 9);
    caller = fake_stack[1];
    read_once(pair.ours);
    const struct ledger_record *record = record_of(pair.ours);
    assert_int_equal(record->eof_ns, 5000);
    assert_int_equal(record->eof_call, CALL_RECV);
    assert_int_equal(record->eof_tid, syscall(SYS_gettid));
    assert_int_equal(ledger.stacks[record->eof_stack].depth, 7);
    assert_int_not_equal(record->eof_stack, record->birth_stack);
    assert_int_equal(record->holders, 1);
}

ISOLATED(data_is_not_end_of_stream) {
    follow_one();
    assert_int_equal(send(pair.peers, "x", 1, 0), 1);
    peer_closes(&pair);
    read_once(pair.ours); // the byte
    assert_int_equal(record_of(pair.ours)->eof_ns, 0);
    read_once(pair.ours);
    assert_int_equal(record_of(pair.ours)->eof_ns, 5000);
}

static int follow_socket(int family, int type) {
    int fd = socket(family, type, 0);
    tracker_born(fd, &(struct tracker_birth){
                         .call = CALL_SOCKET, .family = family, .type = type, .caller = caller});
    return fd;
}

// The listener's number was another socket's before, whose end we did not see.
ISOLATED(an_accepted_socket_is_a_stream_whatever_its_listeners_record_says) {
    options_parse(NULL);
    caller = fake_stack_set(1, 4, 0);
    pair = tcp_pair(AF_INET);
    fake_clock_now_ns = 5000;
    tracker_accepted(follow_socket(AF_UNIX, SOCK_SEQPACKET), pair.ours, CALL_ACCEPT, caller);
    peer_closes(&pair);
    read_once(pair.ours);
    assert_int_equal(record_of(pair.ours)->eof_ns, 5000);
}

ISOLATED(an_accepted_socket_of_messages_is_none_whatever_its_listeners_record_says) {
    options_parse(NULL);
    caller = fake_stack_set(1, 4, 0);
    fake_clock_now_ns = 5000;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    tracker_accepted(follow_socket(AF_INET, SOCK_STREAM), ends[0], CALL_ACCEPT, caller);
    close(ends[1]);
    read_once(ends[0]);
    assert_int_equal(record_of(ends[0])->eof_ns, 0);
    ledger.header->counters.born = UNASKED_AFTER;
    read_once(ends[0]); // believed for the time being
    assert_int_not_equal(record_of(ends[0])->eof_ns, 0);
    unasked_eof(record_of(ends[0]), ends[0]);
    assert_int_equal(record_of(ends[0])->eof_ns, 0);
    assert_false(record_of(ends[0])->flags & (RECORD_EOF_UNASKED | RECORD_TELLING_EOF));
}

// Another process has shut the socket down for reading, or another thread has closed the number
// meanwhile, and opened this socket there.
ISOLATED(an_end_of_stream_that_is_none_is_taken_back_and_the_next_one_counts) {
    follow_one();
    struct ledger_record *record = record_of(pair.ours);
    record->family = AF_INET;
    record->type = SOCK_STREAM;
    record->flags = RECORD_CONNECTED;
    ledger.header->counters.born = UNASKED_AFTER;
    tracker_read_nothing(pair.ours, CALL_RECV, caller);
    assert_true(record->flags & RECORD_EOF_UNASKED);
    unasked_eof(record, pair.ours);
    assert_int_equal(record->eof_ns, 0);
    assert_int_equal(record->eof_stack, LEDGER_NO_STACK);
    tracker_read_nothing(pair.ours, CALL_RECV, caller);
    assert_true(record->flags & RECORD_EOF_UNASKED);
    peer_closes(&pair);
    fake_clock_now_ns = 7000;
    read_once(pair.ours); // the second: the first is asked, and this one is believed
    unasked_eof(record, pair.ours);
    assert_int_not_equal(record->eof_ns, 0);
    assert_int_not_equal(record->fin_ns, 0);
    assert_int_equal(record->holders, 1);
}

ISOLATED(end_of_stream_is_told_once) {
    follow_one();
    peer_closes(&pair);
    read_once(pair.ours);
    uint32_t stack = record_of(pair.ours)->eof_stack;
    fake_clock_now_ns = 9000;
    fake_stack_set(1, 9, 3);
    tracker_read_nothing(pair.ours, CALL_READ, fake_stack[1]);
    assert_int_equal(record_of(pair.ours)->eof_ns, 5000);
    assert_int_equal(record_of(pair.ours)->eof_call, CALL_RECV);
    assert_int_equal(record_of(pair.ours)->eof_stack, stack);
}

ISOLATED(a_read_after_the_own_shutdown_is_no_end_of_stream) {
    follow_one();
    shut_down(pair.ours, SHUT_RD);
    char byte;
    assert_int_equal(recv(pair.ours, &byte, 1, 0), 0); // the kernel answers 0
    assert_int_equal(tcp_state(pair.ours), STATE_ESTABLISHED);
    tracker_read_nothing(pair.ours, CALL_RECV, caller);
    assert_int_equal(record_of(pair.ours)->eof_ns, 0);
}

ISOLATED(a_read_during_the_own_shutdown_is_no_end_of_stream) {
    follow_one();
    uint32_t kept = tracker_shutdown_begin(pair.ours, SHUT_RD, caller);
    assert_int_equal(shutdown(pair.ours, SHUT_RD), 0);
    read_once(pair.ours); // another thread, before this one goes on
    tracker_shutdown_done(kept, SHUT_RD, true, caller);
    assert_int_equal(record_of(pair.ours)->eof_ns, 0);
}

ISOLATED(after_a_shutdown_that_failed_the_fin_is_end_of_stream) {
    follow_one();
    tracker_shutdown_done(tracker_shutdown_begin(pair.ours, SHUT_RDWR, caller), SHUT_RDWR, false,
                          caller);
    peer_closes(&pair);
    read_once(pair.ours);
    assert_int_equal(record_of(pair.ours)->eof_ns, 5000);
    assert_int_equal(record_of(pair.ours)->flags, RECORD_TELLING_EOF);
}

ISOLATED(after_shutting_down_the_own_side_the_fin_is_end_of_stream) {
    follow_one();
    shut_down(pair.ours, SHUT_WR);
    close(pair.peers);
    wait_for_state(pair.ours, STATE_CLOSE); // both FINs; TIME_WAIT has a socket of its own
    read_once(pair.ours);
    assert_int_equal(record_of(pair.ours)->eof_ns, 5000);
}

// Two threads may read the end at once: RECORD_TELLING_EOF says that one is at it.
ISOLATED(an_end_of_stream_that_another_thread_writes_down_is_left_to_it) {
    follow_one();
    peer_closes(&pair);
    struct ledger_record *record = record_of(pair.ours);
    record->flags |= RECORD_TELLING_EOF;
    read_once(pair.ours);
    assert_int_equal(record->eof_ns, 0);
    assert_int_equal(record->fin_ns, 0);
    assert_int_equal(record->eof_call, CALL_UNKNOWN);
    assert_int_equal(record->eof_stack, LEDGER_NO_STACK);
    assert_int_equal(record->holders, 1);
    tracker_connected(pair.ours, NULL, 0, 0, caller); // another connection, which nobody has told
    read_once(pair.ours);
    assert_int_equal(record->eof_ns, 5000);
    assert_int_equal(record->eof_call, CALL_RECV);
}

static void *open_it(void *unused) {
    (void)unused;
    tracker_received(pair.ours, CALL_RECVMSG, caller);
    return NULL;
}

// The number may have become another's while the thread was in its read.
ISOLATED(another_threads_socket_whose_stream_goes_on_is_not_blamed) {
    follow_one();
    pthread_t thread;
    pthread_create(&thread, NULL, open_it, NULL);
    pthread_join(thread, NULL);
    tracker_read_nothing(pair.ours, CALL_RECV, caller);
    assert_int_equal(record_of(pair.ours)->eof_ns, 0);
    peer_closes(&pair);
    tracker_read_nothing(pair.ours, CALL_RECV, caller);
    assert_int_equal(record_of(pair.ours)->eof_ns, 5000);
}

ISOLATED(an_empty_datagram_is_no_end_of_stream) {
    follow_one();
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    tracker_born(ends[0], &(struct tracker_birth){.call = CALL_SOCKETPAIR,
                                                  .family = AF_UNIX,
                                                  .type = SOCK_DGRAM | SOCK_CLOEXEC,
                                                  .caller = caller});
    assert_int_equal(send(ends[1], "", 0, 0), 0);
    read_once(ends[0]);
    assert_int_equal(record_of(ends[0])->eof_ns, 0);
}

ISOLATED(an_empty_datagram_on_a_received_socket_is_no_end_of_stream) {
    follow_one();
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    tracker_received(ends[0], CALL_RECVMSG, caller); // its type was not told
    assert_int_equal(send(ends[1], "", 0, 0), 0);
    read_once(ends[0]);
    assert_int_equal(record_of(ends[0])->eof_ns, 0);
}

ISOLATED(a_unix_streams_end_is_end_of_stream) {
    follow_one();
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    tracker_born(ends[0], &(struct tracker_birth){.call = CALL_SOCKETPAIR,
                                                  .family = AF_UNIX,
                                                  .type = SOCK_STREAM,
                                                  .caller = caller});
    close(ends[1]);
    read_once(ends[0]);
    assert_int_equal(record_of(ends[0])->eof_ns, 5000);
}

ISOLATED(a_files_end_is_nothing_of_ours) {
    follow_one();
    int file = open("/dev/null", O_RDONLY);
    tracker_read_nothing(file, CALL_READ, caller);
    assert_int_equal(ledger_fd(file), 0);
    assert_int_equal(ledger.header->counters.born, 1);
}

ISOLATED(a_socket_first_seen_at_its_end_is_adopted_without_a_false_origin) {
    follow_one();
    tracker_closing(pair.ours, NULL); // unknown again
    peer_closes(&pair);
    read_once(pair.ours);
    const struct ledger_record *record = record_of(pair.ours);
    assert_int_equal(record->provenance, PROVENANCE_ADOPTED);
    assert_int_equal(record->birth_call, CALL_UNKNOWN);
    assert_int_equal(record->birth_stack, LEDGER_NO_STACK);
    assert_int_not_equal(record->eof_stack, LEDGER_NO_STACK);
    assert_int_equal(record->eof_ns, 5000);
}

// --- errors -------------------------------------------------------------------------------------

ISOLATED(a_reset_is_recorded_once) {
    follow_one();
    peer_resets(&pair);
    read_once(pair.ours);
    const struct ledger_record *record = record_of(pair.ours);
    assert_int_equal(record->error, ECONNRESET);
    assert_int_equal(record->error_call, CALL_RECV);
    assert_int_equal(record->error_ns, 5000);
    assert_int_not_equal(record->error_stack, 0);
    fake_clock_now_ns = 9000;
    tracker_read_failed(pair.ours, CALL_READ, EPIPE, caller);
    assert_int_equal(record->error, ECONNRESET);
    assert_int_equal(record->error_ns, 5000);
}

ISOLATED(an_error_that_another_thread_writes_down_is_left_to_it) {
    follow_one();
    peer_resets(&pair);
    struct ledger_record *record = record_of(pair.ours);
    record->flags |= RECORD_TELLING_ERROR;
    read_once(pair.ours);
    assert_int_equal(record->error, 0);
    assert_int_equal(record->error_ns, 0);
    assert_int_equal(record->error_stack, LEDGER_NO_STACK);
    assert_int_equal(record->holders, 1);
    tracker_connected(pair.ours, NULL, 0, 0, caller);
    tracker_read_failed(pair.ours, CALL_READ, ECONNRESET, caller);
    assert_int_equal(record->error, ECONNRESET);
    assert_int_equal(record->error_call, CALL_READ);
}

ISOLATED(errors_that_end_no_connection_are_not_recorded) {
    follow_one();
    static const int harmless[] = {EAGAIN, EINTR, EFAULT, EINVAL, EBADF, ENOMEM, ENOTCONN};
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        tracker_read_failed(pair.ours, CALL_RECV, harmless[i], caller);
    assert_int_equal(record_of(pair.ours)->error, 0);
}

ISOLATED(an_error_of_an_unknown_socket_is_nothing) {
    follow_one();
    tracker_read_failed(pair.peers, CALL_RECV, ECONNRESET, caller);
    assert_int_equal(ledger_fd(pair.peers), 0);
}

// --- shutdown -----------------------------------------------------------------------------------

ISOLATED(a_shutdown_records_its_sides_and_its_stack) {
    follow_one();
    shut_down(pair.ours, SHUT_WR);
    const struct ledger_record *record = record_of(pair.ours);
    assert_int_equal(record->flags & (RECORD_SHUT_RD | RECORD_SHUT_WR), RECORD_SHUT_WR);
    assert_int_equal(record->shutdown_ns, 5000);
    assert_int_not_equal(record->shutdown_stack, 0);
    shut_down(pair.ours, SHUT_RD);
    assert_int_equal(record->flags & (RECORD_SHUT_RD | RECORD_SHUT_WR),
                     RECORD_SHUT_RD | RECORD_SHUT_WR);
    assert_int_equal(record->holders, 1);
}

ISOLATED(the_shutdown_that_sent_our_fin_is_the_one_shown) {
    follow_one();
    shut_down(pair.ours, SHUT_RD);
    fake_clock_now_ns = 6000;
    fake_stack_set(1, 6, 6);
    caller = fake_stack[1];
    shut_down(pair.ours, SHUT_WR);
    assert_int_equal(record_of(pair.ours)->shutdown_ns, 6000);
    assert_int_equal(ledger.stacks[record_of(pair.ours)->shutdown_stack].depth, 6);
    fake_clock_now_ns = 7000;
    shut_down(pair.ours, SHUT_RDWR); // again: no news
    assert_int_equal(record_of(pair.ours)->shutdown_ns, 6000);
}

ISOLATED(a_shutdown_of_both_sides_is_both_flags) {
    follow_one();
    shut_down(pair.ours, SHUT_RDWR);
    assert_int_equal(record_of(pair.ours)->flags & (RECORD_SHUT_RD | RECORD_SHUT_WR),
                     RECORD_SHUT_RD | RECORD_SHUT_WR);
}

// --- connect ------------------------------------------------------------------------------------

static struct sockaddr_in peer_address(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(443)};
    address.sin_addr.s_addr = htonl(0xc0000201); // 192.0.2.1
    return address;
}

static int unconnected(void) {
    follow_one();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    tracker_born(
        fd, &(struct tracker_birth){
                .call = CALL_SOCKET, .family = AF_INET, .type = SOCK_STREAM, .caller = caller});
    return fd;
}

static void tell_connect(int fd, int error) {
    struct sockaddr_in address = peer_address();
    tracker_connected(fd, (struct sockaddr *)&address, sizeof address, error, caller);
}

ISOLATED(a_connect_records_the_peer) {
    int fd = unconnected();
    tell_connect(fd, 0);
    const struct ledger_record *record = record_of(fd);
    assert_int_equal(record->flags, RECORD_CONNECTED);
    assert_int_equal(record->peer.family, ADDRESS_INET);
    assert_int_equal(record->peer.port, 443);
    assert_memory_equal(record->peer.ip, "\xc0\x00\x02\x01", 4);
    assert_int_equal(record->holders, 1);
}

ISOLATED(an_ipv6_peer_is_recorded_with_its_scope) {
    int fd = unconnected();
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
    address.sin6_addr = in6addr_loopback;
    address.sin6_scope_id = 3;
    tracker_connected(fd, (struct sockaddr *)&address, sizeof address, 0, caller);
    assert_int_equal(record_of(fd)->peer.family, ADDRESS_INET6);
    assert_int_equal(record_of(fd)->peer.port, 53);
    assert_int_equal(record_of(fd)->peer.scope_id, 3);
    assert_int_equal(record_of(fd)->peer.ip[15], 1);
}

ISOLATED(a_connect_under_way_is_not_yet_connected) {
    int fd = unconnected();
    tell_connect(fd, EINPROGRESS);
    assert_int_equal(record_of(fd)->flags, RECORD_CONNECTING);
    assert_int_equal(record_of(fd)->peer.port, 443);
}

ISOLATED(a_refused_connect_is_noted_as_one_that_failed) {
    int fd = unconnected();
    tell_connect(fd, EADDRNOTAVAIL); // of this machine's doing, not of the network's
    assert_int_equal(record_of(fd)->flags, 0);
    tell_connect(fd, ECONNREFUSED);
    assert_int_equal(record_of(fd)->flags, RECORD_CONNECT_FAILED);
    assert_int_equal(record_of(fd)->peer.family, ADDRESS_NONE);
}

// A port where nobody listens.
static struct sockaddr_in refusing_address(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t bytes = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int bound = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(bound, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(bound, (struct sockaddr *)&address, &bytes), 0);
    return address;
}

// The first read tells the error, and takes it from the socket (SO_ERROR in socket(7)); the next
// one returns 0.
ISOLATED(a_read_after_a_refused_connect_is_no_end_of_stream) {
    int fd = unconnected();
    struct sockaddr_in address = refusing_address();
    struct pollfd poll_fd = {.fd = fd};
    char byte;
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), -1);
    assert_int_equal(errno, EINPROGRESS);
    tell_connect(fd, EINPROGRESS);
    assert_int_equal(poll(&poll_fd, 1, 5000), 1); // POLLHUP
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNREFUSED);
    tracker_read_failed(fd, CALL_RECV, ECONNREFUSED, caller);
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    tracker_read_nothing(fd, CALL_RECV, caller);
    assert_int_equal(record_of(fd)->eof_ns, 0);
}

// The call that tells that the connection was made is not the one that began it: the peer's FIN may
// have been read before, or the own side shut down.
ISOLATED(a_connect_that_completes_an_earlier_one_keeps_what_was_told) {
    int fd = unconnected();
    struct ledger_record *record = record_of(fd);
    tell_connect(fd, EINPROGRESS);
    record->eof_ns = 1;
    record->eof_call = CALL_READ;
    record->flags |= RECORD_SHUT_WR;
    tell_connect(fd, 0);
    assert_int_equal(record->eof_ns, 1);
    assert_int_equal(record->eof_call, CALL_READ);
    assert_int_equal(record->flags, RECORD_SHUT_WR | RECORD_CONNECTED);
    tell_connect(fd, 0); // a new one
    assert_int_equal(record->eof_ns, 0);
    assert_int_equal(record->flags, RECORD_CONNECTED);
}

ISOLATED(a_socket_connected_again_starts_anew) {
    int fd = unconnected();
    struct ledger_record *record = record_of(fd);
    tell_connect(fd, 0);
    tracker_read_failed(fd, CALL_RECV, ECONNRESET, caller);
    record->eof_ns = 1;
    record->eof_tid = 1;
    record->shutdown_ns = 1;
    record->shutdown_stack = 1;
    tell_connect(fd, 0);
    assert_int_equal(record->error, 0);
    assert_int_equal(record->error_ns, 0);
    assert_int_equal(record->eof_ns, 0);
    assert_int_equal(record->eof_tid, 0);
    assert_int_equal(record->shutdown_ns, 0);
    assert_int_equal(record->shutdown_stack, LEDGER_NO_STACK);
    assert_int_equal(record->flags, RECORD_CONNECTED);
}

ISOLATED(a_connect_adopts_an_unknown_socket) {
    follow_one();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    tell_connect(fd, 0);
    assert_int_equal(record_of(fd)->provenance, PROVENANCE_ADOPTED);
    assert_int_equal(record_of(fd)->inode, inode_of(fd));
    assert_int_equal(record_of(fd)->flags, RECORD_CONNECTED);
}

static void connects(void *fd) {
    tracker_continue_in_child();
    assert_int_not_equal(record_of(*(int *)fd)->process, ledger.header->process);
    tell_connect(*(int *)fd, 0);
    assert_int_equal(record_of(*(int *)fd)->process, ledger.header->process);
}

ISOLATED(an_inherited_socket_that_the_child_connects_is_the_childs) {
    int fd = unconnected();
    child_must_pass(connects, &fd);
}

// --- several threads ----------------------------------------------------------------------------

static void *connect_again_and_again(void *is_over) {
    fake_stack_set(1, 4, 0);
    struct sockaddr_in peer = address_of(pair.listener);
    while (!__atomic_load_n((bool *)is_over, __ATOMIC_RELAXED))
        tracker_connected(pair.ours, (struct sockaddr *)&peer, sizeof peer, EINPROGRESS, caller);
    return NULL;
}

// What is written down is of no order; with SANITIZE=thread it is shown that it is written whole.
ISOLATED(threads_may_tell_of_one_socket_at_once) {
    enum {
        CONNECTING_THREADS = 2,
        ROUNDS = 5000
    };
    bool is_over = false;
    pthread_t threads[CONNECTING_THREADS];
    follow_one();
    peer_closes(&pair);
    for (int i = 0; i < CONNECTING_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, connect_again_and_again, &is_over), 0);
    for (int i = 0; i < ROUNDS; i++) {
        tracker_read_nothing(pair.ours, CALL_RECV, caller);
        tracker_read_failed(pair.ours, CALL_RECV, ECONNRESET, caller);
        uint32_t kept = tracker_shutdown_begin(pair.ours, SHUT_RDWR, caller);
        tracker_shutdown_done(kept, SHUT_RDWR, i % 2, caller);
    }
    __atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
    for (int i = 0; i < CONNECTING_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(record_of(pair.ours)->holders, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_peers_fin_is_end_of_stream),
        cmocka_unit_test(data_is_not_end_of_stream),
        cmocka_unit_test(an_accepted_socket_is_a_stream_whatever_its_listeners_record_says),
        cmocka_unit_test(an_accepted_socket_of_messages_is_none_whatever_its_listeners_record_says),
        cmocka_unit_test(an_end_of_stream_that_is_none_is_taken_back_and_the_next_one_counts),
        cmocka_unit_test(end_of_stream_is_told_once),
        cmocka_unit_test(a_read_after_the_own_shutdown_is_no_end_of_stream),
        cmocka_unit_test(a_read_during_the_own_shutdown_is_no_end_of_stream),
        cmocka_unit_test(after_a_shutdown_that_failed_the_fin_is_end_of_stream),
        cmocka_unit_test(after_shutting_down_the_own_side_the_fin_is_end_of_stream),
        cmocka_unit_test(an_end_of_stream_that_another_thread_writes_down_is_left_to_it),
        cmocka_unit_test(another_threads_socket_whose_stream_goes_on_is_not_blamed),
        cmocka_unit_test(an_empty_datagram_is_no_end_of_stream),
        cmocka_unit_test(an_empty_datagram_on_a_received_socket_is_no_end_of_stream),
        cmocka_unit_test(a_unix_streams_end_is_end_of_stream),
        cmocka_unit_test(a_files_end_is_nothing_of_ours),
        cmocka_unit_test(a_socket_first_seen_at_its_end_is_adopted_without_a_false_origin),
        cmocka_unit_test(a_reset_is_recorded_once),
        cmocka_unit_test(an_error_that_another_thread_writes_down_is_left_to_it),
        cmocka_unit_test(errors_that_end_no_connection_are_not_recorded),
        cmocka_unit_test(an_error_of_an_unknown_socket_is_nothing),
        cmocka_unit_test(a_shutdown_records_its_sides_and_its_stack),
        cmocka_unit_test(the_shutdown_that_sent_our_fin_is_the_one_shown),
        cmocka_unit_test(a_shutdown_of_both_sides_is_both_flags),
        cmocka_unit_test(a_connect_records_the_peer),
        cmocka_unit_test(an_ipv6_peer_is_recorded_with_its_scope),
        cmocka_unit_test(a_connect_under_way_is_not_yet_connected),
        cmocka_unit_test(a_refused_connect_is_noted_as_one_that_failed),
        cmocka_unit_test(a_read_after_a_refused_connect_is_no_end_of_stream),
        cmocka_unit_test(a_connect_that_completes_an_earlier_one_keeps_what_was_told),
        cmocka_unit_test(a_socket_connected_again_starts_anew),
        cmocka_unit_test(a_connect_adopts_an_unknown_socket),
        cmocka_unit_test(an_inherited_socket_that_the_child_connects_is_the_childs),
        cmocka_unit_test(threads_may_tell_of_one_socket_at_once),
    };
    return cmocka_run_group_tests_name("tracker_stream", tests, NULL, NULL);
}
