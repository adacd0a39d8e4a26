// report/facts: the kernel's view of one socket. The sockets are real.
#include "base/clock.h"
#include "report/facts.h"
#include "sockets.h"
#include "unit.h"
#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// A record as the tracker makes it at a birth. One at a time.
static struct ledger_record *born(int fd, int family, int type) {
    static struct ledger_record record;
    record = (struct ledger_record){
        .inode = inode_of(fd),
        .birth_call = CALL_SOCKET,
        .birth_ns = clock_now_ns(),
        .family = (uint16_t)family,
        .type = (uint16_t)type,
        .first_fd = fd,
        .fd_count = 1,
    };
    return &record;
}

static void the_peer_closed_a_while_ago(int family) {
    struct tcp_pair pair = tcp_pair(family);
    struct ledger_record *record = born(pair.ours, family, SOCK_STREAM);
    assert_int_equal(send(pair.peers, "hello", 5, 0), 5);
    sleep_ms(200); // the connection, and its data, are older than the FIN
    uint64_t before = clock_now_ns();
    peer_closes(&pair);
    uint64_t after = clock_now_ns();
    sleep_ms(300);
    facts_look_at(record);
    uint64_t now = clock_now_ns();
    const struct ledger_snapshot *taken = &record->snapshot;
    assert_int_equal(taken->state, 8); // TCP_CLOSE_WAIT
    assert_int_equal(taken->flags & (SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO | SNAPSHOT_HAS_QUEUES),
                     SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO | SNAPSHOT_HAS_QUEUES);
    enum {
        TICKS_MS = 25 // the kernel counts in ticks of up to 10 ms
    };
    assert_in_range(taken->state_age_ms, (taken->taken_ns - after) / 1000000 - TICKS_MS,
                    (now - before) / 1000000 + TICKS_MS);
    assert_int_equal(taken->recv_queue_bytes, 5); // the FIN is no byte
    assert_int_equal(record->local.port, local_port(pair.listener));
    assert_int_equal(record->local.family, family == AF_INET ? ADDRESS_INET : ADDRESS_INET6);
    assert_int_not_equal(record->peer.port, 0);
    tcp_pair_close(&pair);
}

static void close_wait_is_seen_with_its_age(void **state) {
    (void)state;
    the_peer_closed_a_while_ago(AF_INET);
}

static void close_wait_is_seen_over_ipv6(void **state) {
    (void)state;
    the_peer_closed_a_while_ago(AF_INET6);
}

// The kernel's number starts again with each acknowledgement that comes.
static void an_answer_after_the_end_of_stream_does_not_make_it_younger(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    assert_int_equal(shutdown(pair.peers, SHUT_WR), 0);
    wait_for_state(pair.ours, STATE_CLOSE_WAIT);
    record->eof_ns = clock_now_ns();
    sleep_ms(300);
    assert_int_equal(send(pair.ours, "answer", 6, 0), 6);
    sleep_ms(20);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_CLOSE_WAIT);
    assert_true(record->snapshot.state_age_ms >= 300);
}

static void no_state_is_older_than_its_socket(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    peer_closes(&pair);
    sleep_ms(100);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    facts_look_at(record);
    assert_true(record->snapshot.state_age_ms < 50);
}

static void unread_bytes_are_counted_without_the_fin(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    assert_int_equal(send(pair.peers, "12345", 5, 0), 5);
    peer_closes(&pair);
    facts_look_at(record);
    assert_int_equal(record->snapshot.recv_queue_bytes, 5);
    char bytes[8];
    assert_int_equal(recv(pair.ours, bytes, sizeof bytes, MSG_DONTWAIT), 5); // still all there
}

static void unsent_bytes_are_those_of_siocoutq(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    static char block[65536];
    while (send(pair.ours, block, sizeof block, MSG_DONTWAIT) > 0)
        ;
    facts_look_at(record);
    int queued = 0;
    assert_int_equal(ioctl(pair.ours, SIOCOUTQ, &queued), 0);
    assert_true(queued > 0);
    assert_int_equal(record->snapshot.send_queue_bytes, queued);
    assert_int_equal(record->snapshot.state, 1); // TCP_ESTABLISHED
}

static void a_reset_is_seen_and_its_error_stays_for_the_program(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    assert_int_equal(send(pair.peers, "x", 1, 0), 1);
    peer_resets(&pair);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, 7); // TCP_CLOSE
    assert_int_equal(record->snapshot.flags & (SNAPSHOT_WAS_CONNECTED | SNAPSHOT_AGE_IS_BOUND),
                     SNAPSHOT_WAS_CONNECTED | SNAPSHOT_AGE_IS_BOUND);
    assert_true(record->snapshot.flags & SNAPSHOT_ERROR_PENDING);
    int error = 0;
    socklen_t bytes = sizeof error;
    assert_int_equal(getsockopt(pair.ours, SOL_SOCKET, SO_ERROR, &error, &bytes), 0);
    assert_int_equal(error, ECONNRESET);
    facts_look_at(record);
    assert_int_equal(record->snapshot.flags & SNAPSHOT_ERROR_PENDING, 0);
}

static void a_socket_that_was_never_connected_was_not_connected(void **state) {
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct ledger_record *record = born(fd, AF_INET, SOCK_STREAM);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, 7);
    assert_int_equal(record->snapshot.flags & SNAPSHOT_WAS_CONNECTED, 0);
}

static void listeners_and_datagrams_are_seen_as_such(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct ledger_record *record = born(pair.listener, AF_INET, SOCK_STREAM);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, 10); // TCP_LISTEN
    assert_int_equal(record->snapshot.flags & SNAPSHOT_HAS_QUEUES, 0);
    record = born(udp, 0, 0); // not told what it is
    facts_look_at(record);
    assert_int_equal(record->type, SOCK_DGRAM);
    assert_int_equal(record->family, AF_INET);
    assert_int_equal(record->snapshot.flags & SNAPSHOT_HAS_TCP_INFO, 0);
    tcp_pair_close(&pair);
    close(udp);
}

static void a_reset_that_the_program_was_told_of_is_as_old_as_that(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    peer_resets(&pair);
    sleep_ms(100);
    record->error = ECONNRESET;
    record->error_ns = clock_now_ns();
    sleep_ms(100);
    facts_look_at(record);
    assert_int_equal(record->snapshot.flags & SNAPSHOT_AGE_IS_BOUND, 0);
    assert_in_range(record->snapshot.state_age_ms, 100, 190);
    tcp_pair_close(&pair);
}

static struct ledger_record *end_of_stream_300_ms_ago(struct tcp_pair *pair) {
    *pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair->ours, AF_INET, SOCK_STREAM);
    peer_closes(pair);
    record->eof_ns = clock_now_ns();
    sleep_ms(300);
    return record;
}

// By the answer to a peer that is gone; the program's next call will tell it. End of stream was the
// end of one direction only.
static void a_reset_behind_an_end_of_stream_is_not_as_old_as_that(void **state) {
    (void)state;
    struct tcp_pair pair;
    struct ledger_record *record = end_of_stream_300_ms_ago(&pair);
    assert_int_equal(send(pair.ours, "x", 1, 0), 1);
    wait_for_state(pair.ours, STATE_CLOSE);
    facts_look_at(record);
    assert_int_equal(record->snapshot.flags & SNAPSHOT_AGE_IS_BOUND, SNAPSHOT_AGE_IS_BOUND);
    assert_true(record->snapshot.state_age_ms < 150);
    tcp_pair_close(&pair);
}

// Whatever the program had been told before.
static void what_both_sides_shut_down_is_as_old_as_the_later_fin(void **state) {
    (void)state;
    struct tcp_pair pair;
    struct ledger_record *record = end_of_stream_300_ms_ago(&pair);
    assert_int_equal(shutdown(pair.ours, SHUT_WR), 0);
    record->flags |= RECORD_SHUT_WR;
    wait_for_state(pair.ours, STATE_CLOSE);
    sleep_ms(50);
    facts_look_at(record);
    assert_int_equal(record->snapshot.flags & SNAPSHOT_AGE_IS_BOUND, 0);
    assert_in_range(record->snapshot.state_age_ms, 25, 200);
    tcp_pair_close(&pair);
}

static void a_reset_behind_our_own_shutdown_has_a_bound_only(void **state) {
    (void)state;
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = born(pair.ours, AF_INET, SOCK_STREAM);
    assert_int_equal(shutdown(pair.ours, SHUT_WR), 0);
    record->flags |= RECORD_SHUT_WR;
    peer_resets(&pair);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_CLOSE);
    assert_int_equal(record->snapshot.flags & (SNAPSHOT_AGE_IS_BOUND | SNAPSHOT_ERROR_PENDING),
                     SNAPSHOT_AGE_IS_BOUND | SNAPSHOT_ERROR_PENDING);
    tcp_pair_close(&pair);
}

static void an_mptcp_connection_that_the_peer_ended_is_close_wait(void **state) {
    (void)state;
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct sockaddr *any = (struct sockaddr *)&address;
    socklen_t bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (listener < 0 || bind(listener, any, bytes) != 0 || listen(listener, 1) != 0) {
        print_message("skipped: the kernel has no MPTCP\n");
        skip();
    }
    getsockname(listener, any, &bytes);
    int peer = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    assert_int_equal(connect(peer, any, bytes), 0);
    int ours = accept(listener, NULL, NULL);
    struct ledger_record *record = born(ours, AF_INET, SOCK_STREAM);
    facts_look_at(record);
    assert_int_equal(record->protocol, IPPROTO_MPTCP);
    assert_int_equal(record->snapshot.state, STATE_ESTABLISHED);
    char byte;
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
    assert_int_equal(recv(ours, &byte, 1, 0), 0); // it has come
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_CLOSE_WAIT);
    close(ours), close(peer), close(listener);
}

static void a_unix_stream_whose_peer_is_gone_is_close_wait(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct ledger_record *record = born(ends[0], AF_UNIX, SOCK_STREAM);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_ESTABLISHED);
    assert_int_equal(send(ends[1], "123", 3, 0), 3);
    close(ends[1]);
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_CLOSE_WAIT);
    assert_int_equal(record->snapshot.recv_queue_bytes, 3);
}

// poll(2) says POLLRDHUP of it, too, and the peer is there.
static void a_unix_streams_own_shutdown_is_no_close_wait(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct ledger_record *record = born(ends[0], AF_UNIX, SOCK_STREAM);
    assert_int_equal(shutdown(ends[0], SHUT_RD), 0);
    record->flags = RECORD_SHUT_RD;
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_ESTABLISHED);
    assert_int_equal(shutdown(ends[0], SHUT_WR), 0);
    record->flags |= RECORD_SHUT_WR;
    facts_look_at(record);
    assert_int_equal(record->snapshot.state, STATE_CLOSE);
    assert_true(record->snapshot.flags & SNAPSHOT_WAS_CONNECTED);
    close(ends[0]), close(ends[1]);
}

// What accept took from the record of a listener that was another socket's.
static void a_wrong_kind_is_put_right(void **state) {
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct ledger_record *record = born(fd, AF_INET6, SOCK_DGRAM);
    record->protocol = IPPROTO_UDP;
    facts_look_at(record);
    assert_int_equal(record->family, AF_INET);
    assert_int_equal(record->type, SOCK_STREAM);
    assert_int_equal(record->protocol, IPPROTO_TCP);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(close_wait_is_seen_with_its_age),
        cmocka_unit_test(close_wait_is_seen_over_ipv6),
        cmocka_unit_test(an_answer_after_the_end_of_stream_does_not_make_it_younger),
        cmocka_unit_test(no_state_is_older_than_its_socket),
        cmocka_unit_test(unread_bytes_are_counted_without_the_fin),
        cmocka_unit_test(unsent_bytes_are_those_of_siocoutq),
        cmocka_unit_test(a_reset_is_seen_and_its_error_stays_for_the_program),
        cmocka_unit_test(a_socket_that_was_never_connected_was_not_connected),
        cmocka_unit_test(listeners_and_datagrams_are_seen_as_such),
        cmocka_unit_test(a_reset_that_the_program_was_told_of_is_as_old_as_that),
        cmocka_unit_test(a_reset_behind_an_end_of_stream_is_not_as_old_as_that),
        cmocka_unit_test(what_both_sides_shut_down_is_as_old_as_the_later_fin),
        cmocka_unit_test(a_reset_behind_our_own_shutdown_has_a_bound_only),
        cmocka_unit_test(an_mptcp_connection_that_the_peer_ended_is_close_wait),
        cmocka_unit_test(a_unix_stream_whose_peer_is_gone_is_close_wait),
        cmocka_unit_test(a_unix_streams_own_shutdown_is_no_close_wait),
        cmocka_unit_test(a_wrong_kind_is_put_right),
    };
    return cmocka_run_group_tests_name("facts", tests, NULL, NULL);
}
