// track/endings: who ended a connection first, and when. Every state is the kernel's: real
// connections over loopback.
#include "connections.h"
#include "track/unasked.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <unistd.h>

// --- who was first ------------------------------------------------------------------------------

ISOLATED(a_close_of_an_established_connection_is_active) {
    accepted();
    close_ours();
    assert_int_equal(tcp_state(pair.peers), STATE_CLOSE_WAIT); // our FIN came first
    assert_counts((struct counts){.active = 1});
    assert_int_equal(site()->opened, 1);
    assert_int_equal(site()->closed, 1);
}

ISOLATED(a_close_after_the_end_of_stream_that_was_read_is_passive) {
    accepted();
    peer_closes(&pair);
    read_once(pair.ours);
    close_ours();
    assert_counts((struct counts){.passive = 1});
}

ISOLATED(a_close_after_a_fin_that_was_not_read_is_passive) {
    accepted();
    peer_closes(&pair);
    close_ours();
    assert_counts((struct counts){.passive = 1});
}

ISOLATED(a_close_after_a_reset_is_one_told_or_not) {
    accepted();
    peer_resets(&pair);
    close_ours();
    assert_counts((struct counts){.reset = 1});
    accept_another();
    peer_resets(&pair);
    read_once(pair.ours);
    close_ours();
    assert_counts((struct counts){.reset = 2});
}

// The kernel answers with a reset, and no TIME_WAIT is on our side: it says so to the peer.
ISOLATED(a_close_that_throws_data_away_is_a_reset) {
    char byte;
    accepted();
    assert_int_equal(send(pair.peers, "xy", 2, 0), 2);
    assert_int_equal(recv(pair.ours, &byte, 1, 0), 1); // one of two
    close_ours();
    assert_int_equal(recv(pair.peers, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_counts((struct counts){.reset = 1});
    accept_another();
    assert_int_equal(send(pair.peers, "x", 1, 0), 1);
    assert_int_equal(recv(pair.ours, &byte, 1, 0), 1);
    close_ours();
    assert_int_equal(recv(pair.peers, &byte, 1, 0), 0);
    assert_counts((struct counts){.active = 1, .reset = 1});
}

ISOLATED(a_close_that_lingers_for_no_time_is_a_reset) {
    char byte;
    accepted();
    linger_ours(0);
    close_ours();
    assert_int_equal(recv(pair.peers, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_counts((struct counts){.reset = 1});
    accept_another();
    linger_ours(1);
    close_ours();
    assert_int_equal(recv(pair.peers, &byte, 1, 0), 0);
    assert_counts((struct counts){.active = 1, .reset = 1});
}

// Our FIN went first, and yet no TIME_WAIT comes of it.
ISOLATED(a_close_that_resets_behind_our_shutdown_is_a_reset) {
    char byte;
    accepted();
    shut_down(pair.ours, SHUT_WR);
    linger_ours(0);
    close_ours();
    assert_int_equal(recv(pair.peers, &byte, 1, 0), 0); // the FIN was sent
    assert_int_equal(send(pair.peers, "x", 1, MSG_NOSIGNAL), -1);
    assert_counts((struct counts){.reset = 1});
    accept_another();
    shut_down(pair.ours, SHUT_WR);
    assert_int_equal(send(pair.peers, "x", 1, 0), 1); // never read
    close_ours();
    assert_counts((struct counts){.reset = 2});
}

ISOLATED(a_reset_behind_our_shutdown_is_one_also_where_nobody_was_told) {
    accepted();
    shut_down(pair.ours, SHUT_WR);
    peer_resets(&pair);
    close_ours();
    assert_counts((struct counts){.reset = 1});
}

ISOLATED(a_close_behind_our_shutdown_and_a_fork_is_active) {
    accepted();
    shut_down(pair.ours, SHUT_WR);
    tracker_note_fork();
    close_ours();
    assert_counts((struct counts){.active = 1});
}

ISOLATED(our_shutdown_before_the_peers_fin_is_active_whatever_follows) {
    accepted();
    shut_down(pair.ours, SHUT_WR);
    assert_true(ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_FIRST);
    assert_int_equal(tcp_state(pair.peers), STATE_CLOSE_WAIT);
    close(pair.peers);
    wait_for_state(pair.ours, STATE_CLOSE); // by way of TIME_WAIT, which another socket keeps
    read_once(pair.ours);
    close_ours();
    assert_counts((struct counts){.active = 1});
}

// For poll the stream has ended then, too.
ISOLATED(our_shutdown_of_reading_is_not_the_peers_fin) {
    accepted();
    shut_down(pair.ours, SHUT_RD);
    shut_down(pair.ours, SHUT_WR);
    assert_true(ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_FIRST);
    close_ours();
    accept_another();
    assert_int_equal(shutdown(pair.ours, SHUT_RD), 0); // by somebody that we do not see
    shut_down(pair.ours, SHUT_WR);
    assert_true(ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_FIRST);
    close_ours();
    assert_counts((struct counts){.active = 2});
}

ISOLATED(our_shutdown_after_a_reset_is_neither) {
    accepted();
    peer_resets(&pair);
    shut_down(pair.ours, SHUT_WR);
    assert_false(ledger_record(ledger_fd(pair.ours))->flags &
                 (RECORD_FIN_FIRST | RECORD_FIN_SECOND));
}

ISOLATED(our_shutdown_after_the_peers_fin_is_passive) {
    accepted();
    peer_closes(&pair);
    shut_down(pair.ours, SHUT_RDWR);
    assert_true(ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_SECOND);
    close_ours();
    assert_counts((struct counts){.passive = 1});
}

ISOLATED(a_shutdown_after_the_peers_fin_tells_the_end_of_stream_when_it_came) {
    accepted();
    peer_closes(&pair);
    shut_down(pair.ours, SHUT_WR);
    const struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    uint64_t fin_ns = record->fin_ns;
    assert_int_not_equal(fin_ns, 0);
    wait_for_state(pair.ours, STATE_CLOSE);
    read_once(pair.ours);
    assert_int_not_equal(record->eof_ns, 0);
    assert_int_equal(record->fin_ns, fin_ns);
}

// In a process that has opened many, poll's word is believed: see track/unasked.h.
ISOLATED(at_a_shutdown_of_one_of_many_poll_is_believed) {
    accepted();
    ledger.header->counters.born = UNASKED_AFTER;
    peer_closes(&pair);
    shut_down(pair.ours, SHUT_RDWR);
    const struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    assert_true(record->flags & RECORD_FIN_SECOND);
    assert_true(record->flags & RECORD_FIN_IS_BOUND); // TCP_INFO would have told
    assert_int_equal(record->fin_ns, record->shutdown_ns);
    close_ours();
    assert_counts((struct counts){.passive = 1});
}

ISOLATED(of_one_of_many_too_neither_a_reset_nor_our_own_shutdown_is_the_peers_fin) {
    accepted();
    ledger.header->counters.born = UNASKED_AFTER;
    shut_down(pair.ours, SHUT_RD);
    shut_down(pair.ours, SHUT_WR);
    assert_true(ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_FIRST);
    close_ours();
    accept_another();
    peer_resets(&pair);
    shut_down(pair.ours, SHUT_WR);
    assert_false(ledger_record(ledger_fd(pair.ours))->flags &
                 (RECORD_FIN_FIRST | RECORD_FIN_SECOND));
}

ISOLATED(a_shutdown_that_failed_sent_no_fin) {
    accepted();
    peer_resets(&pair);
    uint32_t kept = tracker_shutdown_begin(pair.ours, SHUT_WR, caller);
    ledger_record(kept)->flags |= RECORD_FIN_FIRST;
    tracker_shutdown_done(kept, SHUT_WR, false, caller);
    assert_int_equal(ledger_record(ledger_fd(pair.ours))->flags, RECORD_CONNECTED);
}

ISOLATED(a_connect_that_was_given_up_or_failed_is_neither) {
    accepted();
    struct sockaddr_in address = address_of(pair.listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    born(fd, CALL_SOCKET);
    tracker_connected(fd, (struct sockaddr *)&address, sizeof address, ECONNREFUSED, caller);
    tracker_closing(fd, caller);
    close(fd);
    assert_counts((struct counts){.connecting = 1});
    // A backlog that is full drops SYNs: SYN_SENT for as long as one looks.
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(listener, (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(listen(listener, 0), 0);
    address = address_of(listener);
    int trying[8];
    for (int i = 0; i < 8; i++) {
        trying[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(trying[i], (struct sockaddr *)&address, sizeof address);
    }
    fd = trying[7];
    assert_int_equal(tcp_state(fd), STATE_SYN_SENT);
    born(fd, CALL_SOCKET);
    tracker_connected(fd, (struct sockaddr *)&address, sizeof address, EINPROGRESS, caller);
    tracker_closing(fd, caller);
    assert_counts((struct counts){.connecting = 2});
}

ISOLATED(what_was_never_a_connection_is_only_closed) {
    options_parse(NULL);
    caller = fake_stack_set(1, 4, 0);
    int fds[] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_DGRAM, 0),
                 socket(AF_UNIX, SOCK_STREAM, 0)};
    for (int i = 0; i < 3; i++) {
        tracker_born(fds[i], &(struct tracker_birth){.call = CALL_SOCKET,
                                                     .family = i == 2 ? AF_UNIX : AF_INET,
                                                     .type = i == 1 ? SOCK_DGRAM : SOCK_STREAM,
                                                     .caller = caller});
        tracker_closing(fds[i], caller);
    }
    assert_counts((struct counts){0});
    assert_int_equal(site()->closed, 3);
}

ISOLATED(only_the_last_descriptor_ends_the_connection) {
    accepted();
    uint32_t kept = tracker_dup_begin(pair.ours);
    int copy = dup(pair.ours);
    tracker_dup_done(kept, copy);
    tracker_closing(copy, caller);
    close(copy);
    assert_counts((struct counts){0});
    assert_int_equal(ledger_record(ledger_fd(pair.ours))->fds_closed, 1);
    close_ours();
    assert_counts((struct counts){.active = 1});
    assert_int_equal(site()->closed, 1);
}

ISOLATED(a_dup_over_the_last_descriptor_ends_it_too) {
    accepted();
    int file = open("/dev/null", O_RDONLY);
    uint32_t kept = tracker_replace_begin(pair.ours, caller);
    tracker_replace_done(kept, pair.ours, dup2(file, pair.ours) >= 0);
    assert_counts((struct counts){.active = 1});
}

ISOLATED(a_socket_that_vanished_is_in_no_class) {
    accepted();
    ledger_release_vanished(ledger_fd_take(pair.ours));
    assert_counts((struct counts){0});
    assert_int_equal(site()->closed, 1);
}

// --- a child may hold it ------------------------------------------------------------------------

ISOLATED(after_a_fork_an_active_close_tells_nothing_and_a_passive_one_does) {
    accepted();
    ledger_prepare_fork();
    ledger_fork_done_in_parent();
    close_ours();
    assert_counts((struct counts){.shared = 1});
    accept_another(); // born behind the fork
    close_ours();
    assert_counts((struct counts){.shared = 1, .active = 1});
    accept_another();
    tracker_note_fork();
    peer_closes(&pair);
    close_ours();
    assert_counts((struct counts){.shared = 1, .active = 1, .passive = 1});
}

static void in_child(void *unused) {
    (void)unused;
    tracker_continue_in_child();
    assert_counts((struct counts){0});
    assert_int_equal(site()->opened, 0);
    assert_int_equal(site()->closed, 0);
    assert_int_equal(site()->lifetime_max_ms, 0);
    close_ours(); // left here by the fork
    assert_counts((struct counts){.shared = 1});
    assert_int_equal(site()->closed, 0);
    accept_another(); // our own
    close_ours();
    assert_counts((struct counts){.shared = 1, .active = 1});
    assert_int_equal(site()->opened, 1);
    assert_int_equal(site()->closed, 1);
}

ISOLATED(a_forked_child_counts_from_zero) {
    accepted();
    close_ours();
    accept_another();
    ledger_prepare_fork();
    child_must_pass(in_child, NULL);
    assert_counts((struct counts){.active = 1});
    assert_int_equal(site()->opened, 2);
}

// --- a client that gave up ----------------------------------------------------------------------

static uint32_t ms_since_data_was_sent(int fd) {
    struct tcp_info info = {0};
    socklen_t bytes = sizeof info;
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes), 0);
    return info.tcpi_last_data_sent;
}

static void wait_unanswered(uint32_t ms) {
    while (ms_since_data_was_sent(pair.ours) < ms)
        sleep_ms(1);
}

ISOLATED(a_client_that_sent_and_got_no_answer_gave_up) {
    connected();
    assert_int_equal(send(pair.ours, "?", 1, 0), 1);
    wait_unanswered(60);
    close_ours();
    assert_counts((struct counts){.active = 1});
    assert_int_equal(site()->gave_up, 1);
    assert_in_range(site()->gave_up_ms, 60, 5000);
}

ISOLATED(a_client_that_waits_in_vain_for_a_second_answer_gave_up) {
    connected();
    char byte;
    assert_int_equal(send(pair.peers, "!", 1, 0), 1);
    assert_int_equal(recv(pair.ours, &byte, 1, 0), 1);
    sleep_ms(30); // a later tick of the kernel's
    assert_int_equal(send(pair.ours, "?", 1, 0), 1);
    wait_unanswered(60);
    close_ours();
    assert_int_equal(site()->gave_up, 1);
}

ISOLATED(a_client_that_was_answered_did_not_give_up) {
    connected();
    char byte;
    assert_int_equal(send(pair.ours, "?", 1, 0), 1);
    assert_int_equal(send(pair.peers, "!", 1, 0), 1);
    assert_int_equal(recv(pair.ours, &byte, 1, 0), 1);
    wait_unanswered(60);
    close_ours();
    assert_counts((struct counts){.active = 1});
    assert_int_equal(site()->gave_up, 0);
}

ISOLATED(a_client_that_never_sent_or_that_did_not_wait_did_not_give_up) {
    connected();
    wait_unanswered(60); // since it was connected
    close_ours();
    assert_int_equal(site()->closed_active, 1);
    assert_int_equal(site()->gave_up, 0);
}

ISOLATED(a_server_does_not_give_up) {
    accepted();
    assert_int_equal(send(pair.ours, "?", 1, 0), 1);
    wait_unanswered(60);
    close_ours();
    assert_counts((struct counts){.active = 1});
    assert_int_equal(site()->gave_up, 0);
}

// --- when the FIN came --------------------------------------------------------------------------

ISOLATED(the_end_of_stream_tells_when_the_fin_came) {
    accepted();
    peer_closes(&pair);
    struct tcp_info info = {0};
    socklen_t bytes = sizeof info;
    do {
        sleep_ms(5);
        assert_int_equal(getsockopt(pair.ours, IPPROTO_TCP, TCP_INFO, &info, &bytes), 0);
    } while (info.tcpi_last_ack_recv < 80);
    read_once(pair.ours);
    const struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    assert_int_equal(record->eof_ns, SECONDS(100));
    assert_in_range(record->eof_ns - record->fin_ns, MS(80), MS(2000));
    assert_false(record->flags & RECORD_FIN_IS_BOUND);
}

ISOLATED(what_is_asked_later_tells_when_the_fin_came_too) {
    accepted();
    ledger.header->counters.born = UNASKED_AFTER;
    peer_closes(&pair);
    wait_for_state(pair.ours, STATE_CLOSE_WAIT);
    read_once(pair.ours);
    struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    assert_true(record->flags & RECORD_EOF_UNASKED);
    assert_int_equal(record->fin_ns, 0);
    sleep_ms(120);
    unasked_eof(record, pair.ours);
    assert_false(record->flags & RECORD_EOF_UNASKED);
    assert_int_equal(record->eof_ns, SECONDS(100));
    assert_in_range(SECONDS(100) - record->fin_ns, MS(100), MS(2000)); // the clock stands still
    assert_false(record->flags & RECORD_FIN_IS_BOUND);
}

ISOLATED(what_was_sent_since_leaves_a_bound_of_when_the_fin_came) {
    accepted();
    shutdown(pair.peers, SHUT_WR);
    wait_for_state(pair.ours, STATE_CLOSE_WAIT);
    sleep_ms(30);
    assert_int_equal(send(pair.ours, "x", 1, 0), 1); // acknowledged by the peer's delayed ACK
    for (struct tcp_info info = {.tcpi_unacked = 1}; info.tcpi_unacked; sleep_ms(1)) {
        socklen_t bytes = sizeof info;
        assert_int_equal(getsockopt(pair.ours, IPPROTO_TCP, TCP_INFO, &info, &bytes), 0);
    }
    sleep_ms(30);
    read_once(pair.ours);
    const struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    assert_int_not_equal(record->eof_ns, 0);
    assert_true(record->flags & RECORD_FIN_IS_BOUND);
    assert_in_range(record->eof_ns - record->fin_ns, 1, MS(2000));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_close_of_an_established_connection_is_active),
        cmocka_unit_test(a_close_after_the_end_of_stream_that_was_read_is_passive),
        cmocka_unit_test(a_close_after_a_fin_that_was_not_read_is_passive),
        cmocka_unit_test(a_close_after_a_reset_is_one_told_or_not),
        cmocka_unit_test(a_close_that_throws_data_away_is_a_reset),
        cmocka_unit_test(a_close_that_lingers_for_no_time_is_a_reset),
        cmocka_unit_test(a_close_that_resets_behind_our_shutdown_is_a_reset),
        cmocka_unit_test(a_reset_behind_our_shutdown_is_one_also_where_nobody_was_told),
        cmocka_unit_test(a_close_behind_our_shutdown_and_a_fork_is_active),
        cmocka_unit_test(our_shutdown_before_the_peers_fin_is_active_whatever_follows),
        cmocka_unit_test(our_shutdown_of_reading_is_not_the_peers_fin),
        cmocka_unit_test(our_shutdown_after_a_reset_is_neither),
        cmocka_unit_test(our_shutdown_after_the_peers_fin_is_passive),
        cmocka_unit_test(a_shutdown_after_the_peers_fin_tells_the_end_of_stream_when_it_came),
        cmocka_unit_test(at_a_shutdown_of_one_of_many_poll_is_believed),
        cmocka_unit_test(of_one_of_many_too_neither_a_reset_nor_our_own_shutdown_is_the_peers_fin),
        cmocka_unit_test(a_shutdown_that_failed_sent_no_fin),
        cmocka_unit_test(a_connect_that_was_given_up_or_failed_is_neither),
        cmocka_unit_test(what_was_never_a_connection_is_only_closed),
        cmocka_unit_test(only_the_last_descriptor_ends_the_connection),
        cmocka_unit_test(a_dup_over_the_last_descriptor_ends_it_too),
        cmocka_unit_test(a_socket_that_vanished_is_in_no_class),
        cmocka_unit_test(after_a_fork_an_active_close_tells_nothing_and_a_passive_one_does),
        cmocka_unit_test(a_forked_child_counts_from_zero),
        cmocka_unit_test(a_client_that_sent_and_got_no_answer_gave_up),
        cmocka_unit_test(a_client_that_waits_in_vain_for_a_second_answer_gave_up),
        cmocka_unit_test(a_client_that_was_answered_did_not_give_up),
        cmocka_unit_test(a_client_that_never_sent_or_that_did_not_wait_did_not_give_up),
        cmocka_unit_test(a_server_does_not_give_up),
        cmocka_unit_test(the_end_of_stream_tells_when_the_fin_came),
        cmocka_unit_test(what_is_asked_later_tells_when_the_fin_came_too),
        cmocka_unit_test(what_was_sent_since_leaves_a_bound_of_when_the_fin_came),
    };
    return cmocka_run_group_tests_name("endings", tests, NULL, NULL);
}
