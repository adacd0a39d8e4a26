// report/teardown: which of the four steps happened, in which order (RFC 9293, 3.5 and 3.6), and
// which never did.
#include "report/teardown.h"
#include "unit.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define NOW_NS (1000ull * 1000000000)
#define AGO_NS(ms) (NOW_NS - (uint64_t)(ms)*1000000)

static struct teardown seen;

static struct ledger_record tcp(uint8_t tcp_state, uint32_t age_ms) {
    return (struct ledger_record){
        .inode = 1,
        .family = AF_INET,
        .type = SOCK_STREAM,
        .birth_call = CALL_ACCEPT,
        .flags = RECORD_CONNECTED,
        .snapshot = {.taken_ns = NOW_NS,
                     .state = tcp_state,
                     .state_age_ms = age_ms,
                     .last_data_sent_ms = 60000,
                     .last_data_recv_ms = 60000,
                     .flags = SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO},
    };
}

static struct ledger_record with_eof(struct ledger_record record, uint32_t ms) {
    record.eof_ns = AGO_NS(ms);
    record.eof_call = CALL_RECV;
    record.eof_stack = 4;
    record.eof_tid = 77;
    return record;
}

static struct ledger_record with_shutdown(struct ledger_record record, uint32_t ms,
                                          uint16_t order) {
    record.flags |= RECORD_SHUT_WR | order;
    record.shutdown_ns = AGO_NS(ms);
    record.shutdown_stack = 5;
    return record;
}

// The names of all steps, "!" before one that never happened.
static const char *steps(const struct ledger_record *record) {
    static char text[256];
    struct text {
        size_t len;
    } at = {0};
    text[0] = '\0';
    teardown_of(record, &seen);
    for (unsigned i = 0; i < seen.count; i++)
        at.len += (size_t)snprintf(text + at.len, sizeof text - at.len, "%s%s%s", i ? " " : "",
                                   seen.events[i].happened ? "" : "!",
                                   teardown_step_name(seen.events[i].step));
    return text;
}

static const struct teardown_event *event(enum teardown_step step) {
    for (unsigned i = 0; i < seen.count; i++)
        if (seen.events[i].step == step)
            return &seen.events[i];
    fail_msg("no such event");
    return NULL;
}

static void assert_time(enum teardown_step step, enum teardown_time time, uint64_t ns) {
    assert_string_equal(teardown_time_name(event(step)->time), teardown_time_name(time));
    assert_int_equal(event(step)->ns, ns);
}

static void an_ignored_end_of_stream_lacks_our_fin(void **state) {
    (void)state;
    struct ledger_record record = with_eof(tcp(STATE_CLOSE_WAIT, 11900), 11890);
    record.fin_ns = AGO_NS(11900);
    assert_string_equal(steps(&record), "peer-fin our-ack eof-read !our-fin !our-close");
    assert_int_equal(seen.first, TEARDOWN_FIRST_PEER);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_EXACT, AGO_NS(11900));
    assert_time(TEARDOWN_OUR_ACK, TEARDOWN_TIME_EXACT, AGO_NS(11900));
    record.flags |= RECORD_FIN_IS_BOUND;
    steps(&record);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_NOT_AFTER, AGO_NS(11900));
    assert_time(TEARDOWN_EOF_READ, TEARDOWN_TIME_EXACT, AGO_NS(11890));
    assert_int_equal(event(TEARDOWN_PEER_FIN)->state, STATE_CLOSE_WAIT);
    assert_int_equal(event(TEARDOWN_PEER_FIN)->side, TEARDOWN_FROM_PEER);
    assert_int_equal(event(TEARDOWN_EOF_READ)->side, TEARDOWN_IN_PROGRAM);
    assert_int_equal(event(TEARDOWN_EOF_READ)->thread, 77);
    assert_int_equal(event(TEARDOWN_EOF_READ)->stack, 4);
    assert_int_equal(event(TEARDOWN_EOF_READ)->call, CALL_RECV);
}

static void an_unread_fin_has_the_kernels_time(void **state) {
    (void)state;
    struct ledger_record record = tcp(STATE_CLOSE_WAIT, 3000);
    assert_string_equal(steps(&record), "peer-fin our-ack !our-fin !our-close");
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_EXACT, AGO_NS(3000));
}

static void a_fin_before_our_last_data_is_only_bounded(void **state) {
    (void)state;
    struct ledger_record record = tcp(STATE_CLOSE_WAIT, 3000);
    record.snapshot.flags |= SNAPSHOT_DATA_SENT;
    record.snapshot.last_data_sent_ms =
        2000; // acknowledged since: that is what the age counts from
    steps(&record);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_NOT_AFTER, AGO_NS(3000));
    record.snapshot.last_data_sent_ms = 3100; // that may have been its acknowledgement
    steps(&record);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_NOT_AFTER, AGO_NS(3000));
    record.snapshot.last_data_sent_ms = 4000;
    steps(&record);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_EXACT, AGO_NS(3000));
    record.snapshot.flags |= SNAPSHOT_AGE_IS_BOUND;
    steps(&record);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_UNKNOWN, 0);
}

static void no_fin_is_younger_than_the_end_of_stream_that_it_made(void **state) {
    (void)state;
    struct ledger_record record = with_eof(tcp(STATE_CLOSE_WAIT, 1000), 3000);
    steps(&record);
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_NOT_AFTER, AGO_NS(3000));
}

static void our_shutdown_first_waits_for_the_peers_fin(void **state) {
    (void)state;
    struct ledger_record record = with_shutdown(tcp(STATE_FIN_WAIT2, 500), 500, RECORD_FIN_FIRST);
    assert_string_equal(steps(&record), "our-fin peer-ack !peer-fin !our-close");
    assert_int_equal(seen.first, TEARDOWN_FIRST_US);
    assert_time(TEARDOWN_OUR_FIN, TEARDOWN_TIME_EXACT, AGO_NS(500));
    assert_int_equal(event(TEARDOWN_OUR_FIN)->state, STATE_FIN_WAIT1);
    assert_int_equal(event(TEARDOWN_PEER_ACK)->state, STATE_FIN_WAIT2);
    record.snapshot.state = STATE_FIN_WAIT1;
    assert_string_equal(steps(&record), "our-fin !peer-ack !peer-fin !our-close");
}

static void both_fins_and_no_close(void **state) {
    (void)state;
    struct ledger_record record =
        with_shutdown(with_eof(tcp(STATE_CLOSE, 400), 400), 300, RECORD_FIN_SECOND);
    assert_string_equal(steps(&record), "peer-fin our-ack eof-read our-fin peer-ack !our-close");
    assert_int_equal(seen.first, TEARDOWN_FIRST_PEER);
    assert_int_equal(event(TEARDOWN_OUR_FIN)->state, STATE_LAST_ACK);
    assert_int_equal(event(TEARDOWN_PEER_ACK)->state, STATE_CLOSE);
    record = with_shutdown(with_eof(tcp(STATE_CLOSE, 400), 300), 400, RECORD_FIN_FIRST);
    assert_string_equal(steps(&record), "our-fin peer-ack peer-fin our-ack eof-read !our-close");
    assert_int_equal(event(TEARDOWN_PEER_FIN)->state, STATE_TIME_WAIT);
}

// What was believed at the shutdown does not stand against what the kernel says.
static void a_fin_that_is_waited_for_has_not_come(void **state) {
    (void)state;
    struct ledger_record record = with_shutdown(tcp(STATE_FIN_WAIT2, 400), 400, RECORD_FIN_SECOND);
    assert_string_equal(steps(&record), "our-fin peer-ack !peer-fin !our-close");
    assert_int_equal(seen.first, TEARDOWN_FIRST_US);
}

static void a_last_ack_that_never_comes(void **state) {
    (void)state;
    struct ledger_record record =
        with_shutdown(with_eof(tcp(STATE_LAST_ACK, 400), 400), 300, RECORD_FIN_SECOND);
    assert_string_equal(steps(&record), "peer-fin our-ack eof-read our-fin !peer-ack !our-close");
}

static void an_order_that_was_not_asked_for_is_the_kernels_or_unknown(void **state) {
    (void)state;
    const uint16_t first = RECORD_FIN_FIRST | RECORD_FIN_ASSUMED,
                   second = RECORD_FIN_SECOND | RECORD_FIN_ASSUMED;
    struct ledger_record record = with_shutdown(tcp(STATE_CLOSE, 400), 300, first);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_UNKNOWN);
    record = with_shutdown(tcp(STATE_CLOSE, 400), 300, second);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_UNKNOWN);
    record = with_shutdown(with_eof(tcp(STATE_CLOSE, 400), 200), 300, second);
    assert_string_equal(steps(&record), "our-fin peer-ack peer-fin our-ack eof-read !our-close");
    assert_int_equal(seen.first, TEARDOWN_FIRST_UNKNOWN);
    assert_int_equal(event(TEARDOWN_OUR_FIN)->state, STATE_UNKNOWN);
    assert_int_equal(event(TEARDOWN_PEER_ACK)->state, STATE_UNKNOWN);
    assert_int_equal(event(TEARDOWN_PEER_FIN)->state, STATE_UNKNOWN);
    record = with_shutdown(tcp(STATE_UNKNOWN, 400), 300, first);
    steps(&record);
    assert_int_not_equal(seen.first, TEARDOWN_FIRST_US);
    record = with_shutdown(tcp(STATE_FIN_WAIT2, 400), 300, second);
    assert_string_equal(steps(&record), "our-fin peer-ack !peer-fin !our-close");
    assert_int_equal(seen.first, TEARDOWN_FIRST_US);
    record = with_shutdown(tcp(STATE_LAST_ACK, 400), 300, first);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_PEER);
    record = with_shutdown(with_eof(tcp(STATE_CLOSE, 400), 400), 300, first);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_PEER);
}

static void the_order_is_unknown_where_nothing_tells_it(void **state) {
    (void)state;
    struct ledger_record record = with_shutdown(tcp(STATE_CLOSE, 400), 300, 0);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_UNKNOWN);
    record = with_shutdown(with_eof(tcp(STATE_CLOSE, 400), 400), 300, 0);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_PEER);
    record = with_shutdown(tcp(STATE_CLOSING, 400), 300, 0);
    steps(&record);
    assert_int_equal(seen.first, TEARDOWN_FIRST_US);
}

static void a_reset_ends_it_without_the_other_steps(void **state) {
    (void)state;
    struct ledger_record record = tcp(STATE_CLOSE, 400);
    assert_string_equal(steps(&record), "reset !our-close");
    assert_time(TEARDOWN_RESET, TEARDOWN_TIME_UNKNOWN, 0);
    record.error = ECONNRESET;
    record.error_ns = AGO_NS(200);
    record.error_call = CALL_READ;
    record.error_stack = 6;
    assert_string_equal(steps(&record), "reset error-read !our-close");
    assert_time(TEARDOWN_RESET, TEARDOWN_TIME_NOT_AFTER, AGO_NS(200));
    assert_int_equal(event(TEARDOWN_ERROR_READ)->error, ECONNRESET);
    assert_int_equal(event(TEARDOWN_ERROR_READ)->stack, 6);
    assert_int_equal(seen.first, TEARDOWN_FIRST_NOBODY);
    record = with_eof(record, 300); // a half-close that was answered, to a peer that was gone
    assert_string_equal(steps(&record), "peer-fin our-ack eof-read reset error-read !our-close");
}

// Who saw neither its birth nor a shutdown: the same end as that of both FINs, from outside.
static void how_it_died_is_not_known_where_nobody_saw_it(void **state) {
    (void)state;
    struct ledger_record record = tcp(STATE_CLOSE, 400);
    record.birth_call = CALL_UNKNOWN;
    assert_string_equal(steps(&record), "");
    assert_int_equal(seen.first, TEARDOWN_FIRST_UNKNOWN);
    record.snapshot.flags |= SNAPSHOT_ERROR_PENDING;
    assert_string_equal(steps(&record), "reset !our-close");
}

static void without_a_snapshot_what_the_program_was_told_counts(void **state) {
    (void)state;
    struct ledger_record record = with_eof(tcp(STATE_CLOSE_WAIT, 0), 500);
    memset(&record.snapshot, 0, sizeof record.snapshot);
    assert_string_equal(steps(&record), "peer-fin our-ack eof-read !our-fin !our-close");
    assert_time(TEARDOWN_PEER_FIN, TEARDOWN_TIME_NOT_AFTER, AGO_NS(500));
}

static void what_has_not_begun_to_end_or_is_no_connection_has_no_teardown(void **state) {
    (void)state;
    struct ledger_record record = tcp(STATE_ESTABLISHED, 500);
    assert_string_equal(steps(&record), "");
    assert_int_equal(seen.first, TEARDOWN_FIRST_NOBODY);
    record = tcp(STATE_LISTEN, 500);
    assert_string_equal(steps(&record), "");
    record = tcp(STATE_CLOSE, 500);
    record.flags = 0; // never connected
    assert_string_equal(steps(&record), "");
    record = with_eof(tcp(STATE_CLOSE_WAIT, 500), 400);
    record.family = AF_UNIX;
    assert_string_equal(steps(&record), "");
}

static void any_bytes_fit_in_the_list(void **state) {
    (void)state;
    struct ledger_record record = {0};
    uint32_t random = 1;
    for (int round = 0; round < 20000; round++) {
        unsigned char *bytes = (unsigned char *)&record;
        for (size_t i = 0; i < sizeof record; i++)
            bytes[i] = (unsigned char)((random = random * 1664525 + 1013904223) >> 24);
        record.family = AF_INET;
        record.type = SOCK_STREAM;
        record.snapshot.state = (uint8_t)(round % 13);
        record.snapshot.flags = (uint16_t)(random >> 8);
        teardown_of(&record, &seen);
        assert_true(seen.count <= TEARDOWN_EVENTS_MAX);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ignored_end_of_stream_lacks_our_fin),
        cmocka_unit_test(an_unread_fin_has_the_kernels_time),
        cmocka_unit_test(a_fin_before_our_last_data_is_only_bounded),
        cmocka_unit_test(no_fin_is_younger_than_the_end_of_stream_that_it_made),
        cmocka_unit_test(our_shutdown_first_waits_for_the_peers_fin),
        cmocka_unit_test(both_fins_and_no_close),
        cmocka_unit_test(a_fin_that_is_waited_for_has_not_come),
        cmocka_unit_test(a_last_ack_that_never_comes),
        cmocka_unit_test(an_order_that_was_not_asked_for_is_the_kernels_or_unknown),
        cmocka_unit_test(the_order_is_unknown_where_nothing_tells_it),
        cmocka_unit_test(a_reset_ends_it_without_the_other_steps),
        cmocka_unit_test(how_it_died_is_not_known_where_nobody_saw_it),
        cmocka_unit_test(without_a_snapshot_what_the_program_was_told_counts),
        cmocka_unit_test(what_has_not_begun_to_end_or_is_no_connection_has_no_teardown),
        cmocka_unit_test(any_bytes_fit_in_the_list),
    };
    return cmocka_run_group_tests_name("teardown", tests, NULL, NULL);
}
