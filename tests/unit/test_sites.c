// ledger/sites: the counters of each call site and of each destination: lifetimes, the last minute,
// more closes than the kernel is asked for.
#include "connections.h"
#include "track/unasked.h"
#include "unit.h"
#include <pthread.h>
#include <unistd.h>

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
    accept_another();
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
    EXACT_CLOSES = 64,
    WAITING_MAX = 64 // shutdowns whose order is assumed, and whose sockets are open
};

// `count` connections of one call site, the peer's FIN having come to those of `is_passive`.
static void close_many(int count, bool (*is_passive)(int)) {
    for (int i = 0; i < count; i++) {
        accept_another();
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
        accept_another();
        peer_closes(&pair);
        read_once(pair.ours);
        close_ours();
        close(pair.listener);
    }
    assert_counts((struct counts){.active = 200, .passive = 50});
}

// As a proxy does that shuts down, and then wants no TIME_WAIT.
ISOLATED(those_that_were_shut_down_first_are_counted_by_themselves) {
    accepted();
    close_ours();
    for (int i = 0; i < 400; i++) {
        accept_another();
        if (by_turns(i)) {
            shut_down(pair.ours, SHUT_WR);
            linger_ours(0);
        }
        close_ours();
        close(pair.peers);
        close(pair.listener);
    }
    assert_counts((struct counts){.active = 201, .reset = 200});
    assert_true(site()->flags & STACK_SAMPLED);
}

ISOLATED(the_next_slot_begins_exactly) {
    accepted();
    close_ours();
    close_many(199, never);
    fake_clock_now_ns += SECONDS(LEDGER_RECENT_SLOT_S);
    close_many(EXACT_CLOSES, by_turns);
    assert_counts((struct counts){.active = 200 + EXACT_CLOSES / 2, .passive = EXACT_CLOSES / 2});
}

// --- many shutdowns -----------------------------------------------------------------------------

// In a process that has opened many: `count` shutdowns, of which the peer's FIN came before those
// that `is_second`. Answers how many of the orders are assumed.
static int shut_down_many(int count, bool (*is_second)(int), bool and_close) {
    int assumed = 0;
    ledger.header->counters.born += UNASKED_AFTER;
    for (int i = 0; i < count; i++) {
        accept_another();
        if (is_second(i))
            peer_closes(&pair);
        shut_down(pair.ours, SHUT_WR);
        assumed += (ledger_record(ledger_fd(pair.ours))->flags & RECORD_FIN_ASSUMED) != 0;
        if (and_close)
            close_ours();
        if (!is_second(i))
            close(pair.peers);
        close(pair.listener);
    }
    return assumed;
}

ISOLATED(of_many_shutdowns_the_first_are_all_asked_for) {
    accepted();
    assert_int_equal(shut_down_many(EXACT_CLOSES, by_turns, true), 0);
    assert_counts((struct counts){.active = EXACT_CLOSES / 2, .passive = EXACT_CLOSES / 2});
}

ISOLATED(of_many_shutdowns_some_are_asked_for_and_all_are_counted) {
    accepted();
    assert_in_range(shut_down_many(2000, by_turns, true), 1700, 1999);
    assert_in_range(site()->closed_active, 700, 1300);
    assert_int_equal(ends_by_class(), 2000);
    assert_true(site()->flags & STACK_SAMPLED);
}

ISOLATED(an_end_of_stream_that_was_read_tells_the_order_of_each) {
    accepted();
    shut_down_many(200, never, true);
    accept_another();
    peer_closes(&pair);
    read_once(pair.ours);
    shut_down(pair.ours, SHUT_WR);
    uint16_t flags = ledger_flags(ledger_record(ledger_fd(pair.ours)));
    assert_int_equal(flags & (RECORD_FIN_SECOND | RECORD_FIN_ASSUMED), RECORD_FIN_SECOND);
    close_ours();
    assert_counts((struct counts){.active = 200, .passive = 1});
}

// They may be leaks, and nothing tells their order later.
ISOLATED(where_those_that_were_shut_down_stay_open_each_is_asked_for) {
    accepted();
    assert_int_equal(shut_down_many(250, never, false), WAITING_MAX);
    assert_int_equal(shut_down_many(50, by_turns, false), 0);
}

ISOLATED(a_shutdown_that_failed_waits_for_no_close) {
    accepted();
    shut_down_many(100, never, true);
    for (int i = 0; i < 2 * WAITING_MAX; i++) {
        uint32_t kept = tracker_shutdown_begin(pair.ours, SHUT_WR, caller);
        tracker_shutdown_done(kept, SHUT_WR, false, caller);
    }
    assert_in_range(shut_down_many(50, never, true), 40, 50);
}

ISOLATED(a_dup2_that_failed_waits_on_for_the_close) {
    accepted();
    shut_down_many(100, never, true);
    int kept = -1, assumed = 0;
    while (!assumed) {
        assumed = shut_down_many(1, never, false);
        kept = pair.ours;
    }
    for (int i = 0; i < 2 * WAITING_MAX; i++)
        tracker_replace_done(tracker_replace_begin(kept, caller), kept, false);
    assert_int_equal(shut_down_many(150, never, false), WAITING_MAX - 1);
}

ISOLATED(a_reconnected_socket_has_no_order) {
    accepted();
    shut_down_many(100, never, true);
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    for (int i = 0; i < 2 * WAITING_MAX; i++) {
        shut_down_many(1, never, false);
        tracker_connected(pair.ours, &nobody, sizeof nobody, 0, caller);
        assert_int_equal(ledger_flags(ledger_record(ledger_fd(pair.ours))), 0);
        close_ours();
    }
    assert_int_equal(shut_down_many(150, never, false), WAITING_MAX);
}

// Its closes are counted by destination, too.
ISOLATED(a_clients_shutdowns_are_all_asked_for) {
    connected();
    ledger.header->counters.born = UNASKED_AFTER;
    for (int i = 0; i < 200; i++) {
        shut_down(pair.ours, SHUT_WR);
        uint16_t flags = ledger_flags(ledger_record(ledger_fd(pair.ours)));
        assert_int_equal(flags & (RECORD_FIN_FIRST | RECORD_FIN_ASSUMED), RECORD_FIN_FIRST);
        close_ours();
        close(pair.peers);
        close(pair.listener);
        connect_another();
    }
    assert_counts((struct counts){.active = 200});
}

// Of the sockets whose order was asked for, the endings are, too.
ISOLATED(resets_behind_many_shutdowns_are_about_right) {
    accepted();
    ledger.header->counters.born = UNASKED_AFTER;
    for (int i = 0; i < 4000; i++) {
        accept_another();
        shut_down(pair.ours, SHUT_WR);
        if (i % 4 == 1)
            linger_ours(0);
        close_ours();
        close(pair.peers);
        close(pair.listener);
    }
    assert_in_range(site()->closed_reset, 500, 1600);
    assert_int_equal(ends_by_class(), 4000);
}

ISOLATED(what_has_no_stack_is_asked_for) {
    accepted();
    shut_down_many(100, never, true);
    accept_another();
    struct ledger_record *record = ledger_record(ledger_fd(pair.ours));
    record->birth_stack = LEDGER_NO_STACK;
    shut_down(pair.ours, SHUT_WR);
    assert_int_equal(record->flags & (RECORD_FIN_FIRST | RECORD_FIN_ASSUMED), RECORD_FIN_FIRST);
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
    site_count_ended(&record, true, 0);
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
        cmocka_unit_test(lifetimes_fall_into_half_octaves),
        cmocka_unit_test(a_close_notes_how_long_the_socket_lived),
        cmocka_unit_test(active_closes_are_counted_in_slots_of_four_seconds),
        cmocka_unit_test(who_closes_first_is_captured_once_a_second),
        cmocka_unit_test(few_closes_are_exact),
        cmocka_unit_test(many_closes_of_one_kind_are_all_counted),
        cmocka_unit_test(many_closes_of_two_kinds_are_about_right_and_add_up),
        cmocka_unit_test(those_that_were_shut_down_first_are_counted_by_themselves),
        cmocka_unit_test(a_rare_kind_is_about_right_too),
        cmocka_unit_test(what_is_known_without_asking_stays_exact),
        cmocka_unit_test(the_next_slot_begins_exactly),
        cmocka_unit_test(of_many_shutdowns_the_first_are_all_asked_for),
        cmocka_unit_test(of_many_shutdowns_some_are_asked_for_and_all_are_counted),
        cmocka_unit_test(an_end_of_stream_that_was_read_tells_the_order_of_each),
        cmocka_unit_test(where_those_that_were_shut_down_stay_open_each_is_asked_for),
        cmocka_unit_test(a_shutdown_that_failed_waits_for_no_close),
        cmocka_unit_test(a_dup2_that_failed_waits_on_for_the_close),
        cmocka_unit_test(a_reconnected_socket_has_no_order),
        cmocka_unit_test(a_clients_shutdowns_are_all_asked_for),
        cmocka_unit_test(resets_behind_many_shutdowns_are_about_right),
        cmocka_unit_test(what_has_no_stack_is_asked_for),
        cmocka_unit_test(active_closes_of_clients_are_counted_by_peer),
        cmocka_unit_test(destinations_without_a_place_are_counted),
        cmocka_unit_test(threads_lose_no_count),
    };
    return cmocka_run_group_tests_name("sites", tests, NULL, NULL);
}
