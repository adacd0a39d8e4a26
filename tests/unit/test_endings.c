// track/endings and ledger/sites: who ended a connection first, and the counters of each call site.
// Every state is the kernel's: real connections over loopback.
#include "base/options.h"
#include "fake_clock.h"
#include "fake_unwinder.h"
#include "ledger/sites.h"
#include "sockets.h"
#include "track/tracker.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS(n) ((uint64_t)(n)*1000000)
#define SECONDS(n) (MS(n) * 1000)

static const void *caller;
static struct tcp_pair pair;

static void born(int fd, enum ledger_call call) {
    tracker_born(fd, &(struct tracker_birth){
                         .call = call, .family = AF_INET, .type = SOCK_STREAM, .caller = caller});
}

// `ours` was accepted, by one call site.
static void accepted(void) {
    options_parse(NULL);
    fake_clock_now_ns = SECONDS(100);
    caller = fake_stack_set(1, 4, 0);
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    record->flags = RECORD_CONNECTED;
}

static struct sockaddr_in address_of(int listener) {
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    return address;
}

// `ours` is a client of `peers`.
static void connected(void) {
    options_parse(NULL);
    fake_clock_now_ns = SECONDS(100);
    caller = fake_stack_set(1, 4, 0);
    pair = tcp_pair(AF_INET);
    int swapped = pair.ours;
    pair.ours = pair.peers;
    pair.peers = swapped;
    born(pair.ours, CALL_SOCKET);
    struct sockaddr_in address = address_of(pair.listener);
    tracker_connected(pair.ours, (struct sockaddr *)&address, sizeof address, 0, caller);
}

static const struct ledger_stack *site(void) {
    return &ledger.stacks[1]; // of the first birth
}

static void read_once(int fd) {
    char bytes[16];
    ssize_t got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got == 0)
        tracker_read_nothing(fd, CALL_RECV, caller);
    else if (got < 0)
        tracker_read_failed(fd, CALL_RECV, errno, caller);
}

static void shut_down(int fd, int how) {
    uint32_t kept = tracker_shutdown_begin(fd, how, caller);
    tracker_shutdown_done(kept, how, shutdown(fd, how) == 0, caller);
}

static void close_ours(void) {
    tracker_closing(pair.ours, caller);
    close(pair.ours);
}

struct counts {
    uint64_t passive, active, reset, connecting, shared;
};

static void assert_counts(struct counts expected) {
    assert_int_equal(site()->closed_passive, expected.passive);
    assert_int_equal(site()->closed_active, expected.active);
    assert_int_equal(site()->closed_reset, expected.reset);
    assert_int_equal(site()->closed_connecting, expected.connecting);
    assert_int_equal(site()->closed_shared, expected.shared);
}

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
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
    peer_resets(&pair);
    read_once(pair.ours);
    close_ours();
    assert_counts((struct counts){.reset = 2});
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

ISOLATED(our_shutdown_after_the_peers_fin_is_passive) {
    accepted();
    peer_closes(&pair);
    shut_down(pair.ours, SHUT_RDWR);
    assert_true(ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_SECOND);
    close_ours();
    assert_counts((struct counts){.passive = 1});
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
    uint32_t was;
    ledger_fd_swap(pair.ours, 0, &was);
    ledger_release_vanished(was);
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
    pair = tcp_pair(AF_INET); // born behind the fork
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
    close_ours();
    assert_counts((struct counts){.shared = 1, .active = 1});
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
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
    pair = tcp_pair(AF_INET); // our own
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
    close_ours();
    assert_counts((struct counts){.shared = 1, .active = 1});
    assert_int_equal(site()->opened, 1);
    assert_int_equal(site()->closed, 1);
}

ISOLATED(a_forked_child_counts_from_zero) {
    accepted();
    close_ours();
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
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

// --- lifetimes ----------------------------------------------------------------------------------

static void lifetimes_fall_into_half_octaves(void **state) {
    (void)state;
    static const struct {
        uint64_t ms;
        unsigned bucket;
    } expected[] = {{0, 0},       {1, 0},         {2, 2},          {3, 3},     {4, 4},
                    {5, 4},       {6, 5},         {7, 5},          {8, 6},     {1000, 19},
                    {1023, 19},   {1024, 20},     {1535, 20},      {1536, 21}, {786431, 38},
                    {786432, 39}, {1u << 20, 39}, {UINT64_MAX, 39}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_int_equal(site_lifetime_bucket(expected[i].ms), expected[i].bucket);
}

ISOLATED(a_close_notes_how_long_the_socket_lived) {
    accepted();
    fake_clock_now_ns += MS(1600);
    close_ours();
    assert_int_equal(site()->lifetimes[21], 1);
    assert_int_equal(site()->lifetime_max_ms, 1600);
}

// --- the last minute ----------------------------------------------------------------------------

static void one_more_active_close(void) {
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
    close_ours();
    close(pair.peers);
    close(pair.listener);
}

ISOLATED(active_closes_are_counted_in_slots_of_four_seconds) {
    accepted(); // at 100 s: slot 25
    close_ours();
    one_more_active_close();
    fake_clock_now_ns = SECONDS(104);
    one_more_active_close();
    assert_int_equal(site()->recent_active[25 % 16], 25ull << 32 | 2);
    assert_int_equal(site()->recent_active[26 % 16], 26ull << 32 | 1);
    fake_clock_now_ns = SECONDS(100 + 64); // the same entry, 16 slots on
    one_more_active_close();
    assert_int_equal(site()->recent_active[25 % 16], 41ull << 32 | 1);
}

ISOLATED(who_closes_first_is_captured_once_a_second) {
    accepted();
    fake_stack_set(1, 6, 9);
    caller = fake_stack[1];
    close_ours();
    assert_int_equal(ledger.stacks[site()->close_stack].depth, 6);
    caller = fake_stack_set(1, 4, 0);
    int captured = fake_unwinder_calls;
    one_more_active_close(); // the birth is captured
    assert_int_equal(fake_unwinder_calls, captured + 1);
    fake_clock_now_ns += SECONDS(1);
    one_more_active_close(); // the birth, and the close
    assert_int_equal(fake_unwinder_calls, captured + 3);
}

// --- more closes than the kernel is asked for ---------------------------------------------------

enum {
    EXACT_CLOSES = 64
};

// `count` connections of one call site, the peer's FIN having come to those of `is_passive`.
static void close_many(int count, bool (*is_passive)(int)) {
    for (int i = 0; i < count; i++) {
        pair = tcp_pair(AF_INET);
        born(pair.ours, CALL_ACCEPT);
        ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
        if (is_passive(i))
            peer_closes(&pair);
        close_ours();
        if (!is_passive(i))
            close(pair.peers);
        close(pair.listener);
    }
}

static bool never(int i) {
    return i < 0;
}

static bool by_turns(int i) {
    return i % 2;
}

static bool once_in_a_while(int i) {
    return i % 10 == 3;
}

static uint64_t ends_by_class(void) {
    return site()->closed_passive + site()->closed_active + site()->closed_reset +
           site()->closed_connecting + site()->closed_shared;
}

ISOLATED(few_closes_are_exact) {
    accepted();
    close_ours();
    close_many(EXACT_CLOSES - 1, by_turns);
    assert_counts((struct counts){.active = EXACT_CLOSES / 2 + 1, .passive = EXACT_CLOSES / 2 - 1});
    assert_false(site()->flags & STACK_SAMPLED);
}

ISOLATED(many_closes_of_one_kind_are_all_counted) {
    accepted();
    close_ours();
    close_many(199, never);
    assert_counts((struct counts){.active = 200});
    assert_true(site()->flags & STACK_SAMPLED);
    assert_int_equal(site()->recent_active[25 % 16], 25ull << 32 | 200);
}

ISOLATED(many_closes_of_two_kinds_are_about_right_and_add_up) {
    accepted();
    close_ours();
    close_many(1999, by_turns);
    assert_in_range(site()->closed_active, 800, 1200);
    assert_int_equal(ends_by_class(), 2000);
    assert_int_equal(site()->closed, 2000);
    uint64_t lives = 0;
    for (int i = 0; i < LEDGER_LIFETIME_BUCKETS; i++)
        lives += site()->lifetimes[i];
    assert_int_equal(lives, 2000);
}

ISOLATED(a_rare_kind_is_about_right_too) {
    accepted();
    close_ours();
    close_many(2999, once_in_a_while);
    assert_in_range(site()->closed_passive, 200, 400);
    assert_int_equal(ends_by_class(), 3000);
}

ISOLATED(what_is_known_without_asking_stays_exact) {
    accepted();
    close_ours();
    close_many(199, never);
    for (int i = 0; i < 50; i++) {
        pair = tcp_pair(AF_INET);
        born(pair.ours, CALL_ACCEPT);
        ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
        peer_closes(&pair);
        read_once(pair.ours);
        close_ours();
        close(pair.listener);
    }
    assert_counts((struct counts){.active = 200, .passive = 50});
}

ISOLATED(the_next_slot_begins_exactly) {
    accepted();
    close_ours();
    close_many(199, never);
    fake_clock_now_ns += SECONDS(LEDGER_RECENT_SLOT_S);
    close_many(EXACT_CLOSES, by_turns);
    assert_counts((struct counts){.active = 200 + EXACT_CLOSES / 2, .passive = EXACT_CLOSES / 2});
}

// --- destinations -------------------------------------------------------------------------------

static const struct ledger_destination *only_destination(void) {
    const struct ledger_destination *only = NULL;
    for (int i = 0; i < LEDGER_DESTINATION_COUNT; i++)
        if (ledger.destinations[i].state == 2) {
            assert_null(only);
            only = &ledger.destinations[i];
        }
    assert_non_null(only);
    return only;
}

ISOLATED(active_closes_of_clients_are_counted_by_peer) {
    connected();
    uint16_t port = ntohs(address_of(pair.listener).sin_port);
    close_ours();
    const struct ledger_destination *to = only_destination();
    assert_int_equal(to->closed_active, 1);
    assert_int_equal(to->stack, 1);
    assert_int_equal(to->peer.port, port);
    assert_int_equal(to->peer.family, ADDRESS_INET);
    assert_int_equal(to->recent_active[25 % 16], 25ull << 32 | 1);
    one_more_active_close(); // a server's: nobody whom we connected to
    assert_int_equal(only_destination()->closed_active, 1);
}

static void end_with_peer(unsigned i) {
    struct ledger_record record = {.birth_stack = 1, .birth_call = CALL_SOCKET, .ending = 0};
    record.ending = LEDGER_ENDING(ENDING_ACTIVE, 0);
    record.peer = (struct ledger_address){
        .family = ADDRESS_INET, .port = (uint16_t)(i >> 8), .ip = {10, 0, 0}};
    record.peer.ip[3] = (uint8_t)i;
    site_count_ended(&record, true);
}

ISOLATED(destinations_without_a_place_are_counted) {
    accepted();
    enum {
        PEERS = 3 * LEDGER_DESTINATION_COUNT
    };
    for (unsigned i = 0; i < PEERS; i++)
        end_with_peer(i);
    uint64_t counted = 0;
    for (int i = 0; i < LEDGER_DESTINATION_COUNT; i++)
        counted += ledger.destinations[i].closed_active;
    uint64_t lost = ledger.header->counters.destinations_lost;
    assert_int_equal(counted + lost, PEERS);
    assert_true(counted > LEDGER_DESTINATION_COUNT / 10 * 9);
    assert_int_equal(site()->closed_active, PEERS);
}

enum {
    RACING = 4,
    ROUNDS = 20000
};

static void *race(void *unused) {
    for (unsigned i = 0; i < ROUNDS; i++)
        end_with_peer(i % 7);
    return unused;
}

ISOLATED(threads_lose_no_count) {
    accepted();
    pthread_t threads[RACING];
    for (int i = 0; i < RACING; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race, NULL), 0);
    for (int i = 0; i < RACING; i++)
        pthread_join(threads[i], NULL);
    uint64_t by_peer = 0, recent = 0;
    for (int i = 0; i < LEDGER_DESTINATION_COUNT; i++)
        by_peer += ledger.destinations[i].closed_active;
    for (int i = 0; i < LEDGER_RECENT_SLOTS; i++)
        recent += (uint32_t)site()->recent_active[i];
    assert_int_equal(by_peer, RACING * ROUNDS);
    assert_int_equal(recent, RACING * ROUNDS);
    assert_int_equal(site()->closed_active, RACING * ROUNDS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_close_of_an_established_connection_is_active),
        cmocka_unit_test(a_close_after_the_end_of_stream_that_was_read_is_passive),
        cmocka_unit_test(a_close_after_a_fin_that_was_not_read_is_passive),
        cmocka_unit_test(a_close_after_a_reset_is_one_told_or_not),
        cmocka_unit_test(our_shutdown_before_the_peers_fin_is_active_whatever_follows),
        cmocka_unit_test(our_shutdown_after_the_peers_fin_is_passive),
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
        cmocka_unit_test(what_was_sent_since_leaves_a_bound_of_when_the_fin_came),
        cmocka_unit_test(lifetimes_fall_into_half_octaves),
        cmocka_unit_test(a_close_notes_how_long_the_socket_lived),
        cmocka_unit_test(active_closes_are_counted_in_slots_of_four_seconds),
        cmocka_unit_test(who_closes_first_is_captured_once_a_second),
        cmocka_unit_test(few_closes_are_exact),
        cmocka_unit_test(many_closes_of_one_kind_are_all_counted),
        cmocka_unit_test(many_closes_of_two_kinds_are_about_right_and_add_up),
        cmocka_unit_test(a_rare_kind_is_about_right_too),
        cmocka_unit_test(what_is_known_without_asking_stays_exact),
        cmocka_unit_test(the_next_slot_begins_exactly),
        cmocka_unit_test(active_closes_of_clients_are_counted_by_peer),
        cmocka_unit_test(destinations_without_a_place_are_counted),
        cmocka_unit_test(threads_lose_no_count),
    };
    return cmocka_run_group_tests_name("endings", tests, NULL, NULL);
}
