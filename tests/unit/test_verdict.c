// report/verdict: every verdict of libsockleak(7), and both sides of each grace rule.
#include "report/verdict.h"
#include "unit.h"
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum {
    GRACE_MS = 1000,
    EXIT_GRACE_MS = 100,
    OLD_MS = 60000
};

static const struct verdict_rules live = {
    .inet_sockets = true, .grace_ms = GRACE_MS, .end_grace_ms = EXIT_GRACE_MS};
static const struct verdict_rules at_end = {
    .at_end = true, .inet_sockets = true, .grace_ms = GRACE_MS, .end_grace_ms = EXIT_GRACE_MS};

static struct ledger_record tcp(uint8_t state, uint32_t age_ms) {
    return (struct ledger_record){
        .inode = 1,
        .family = AF_INET,
        .type = SOCK_STREAM,
        .process = 1,
        .snapshot = {.state = state,
                     .state_age_ms = age_ms,
                     .last_data_sent_ms = OLD_MS,
                     .flags = SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO | SNAPSHOT_HAS_QUEUES},
    };
}

// --- section 5, row by row ----------------------------------------------------------------------

static const struct row {
    const char *name, *group;
    uint8_t state;       // include/net/tcp_states.h
    bool told_eof;       // a read returned 0
    uint16_t told_error; // a call failed with it
    uint32_t queued_bytes;
    uint16_t flags; // enum ledger_record_flags
    uint16_t snapshot_flags;
} rows[] = {
    {"eof-ignored", "close-wait", 8, true, 0, 0, 0, 0},
    {"eof-ignored", "close-wait", 8, true, 0, 0, RECORD_CONNECTED, 0},
    {"fin-unread", "close-wait", 8, false, 0, 0, RECORD_CONNECTED, 0},
    {"data-unread", "close-wait", 8, false, 0, 1, RECORD_CONNECTED, 0},
    {"reset-unclosed", "dead", 7, false, ECONNRESET, 0, RECORD_CONNECTED, 0},
    {"reset-unclosed", "dead", 7, false, EPIPE, 0, RECORD_CONNECTED, 0},
    {"reset-unclosed", "dead", 7, false, 0, 0, RECORD_CONNECTED, 0},
    {"reset-unclosed", "dead", 7, false, 0, 0, 0, SNAPSHOT_WAS_CONNECTED},
    {"reset-unclosed", "dead", 7, false, 0, 0, RECORD_CONNECTING, SNAPSHOT_WAS_CONNECTED},
    {"reset-unclosed", "dead", 7, true, 0, 0, RECORD_CONNECTED, 0},
    {"reset-unclosed", "dead", 7, false, ECONNRESET, 0, RECORD_CONNECTED | RECORD_SHUT_WR, 0},
    {"reset-unclosed", "dead", 7, false, 0, 0, RECORD_CONNECTED | RECORD_SHUT_WR,
     SNAPSHOT_ERROR_PENDING},
    {"shutdown-unclosed", "dead", 7, true, 0, 0, RECORD_CONNECTED | RECORD_SHUT_WR, 0},
    {"shutdown-unclosed", "dead", 9, true, 0, 0, RECORD_SHUT_WR, 0},
    {"shutdown-unclosed", "dead", 6, false, 0, 0, RECORD_SHUT_WR, 0},
    {"fin-wait", "open", 4, false, 0, 0, RECORD_SHUT_WR, 0},
    {"fin-wait", "open", 5, false, 0, 0, RECORD_SHUT_WR, 0},
    {"never-connected", "open", 7, false, 0, 0, 0, 0},
    {"never-connected", "open", 7, false, 0, 0, RECORD_CONNECTING, 0},
    {"never-connected", "open", 7, false, ETIMEDOUT, 0, RECORD_CONNECTING, 0},
    {"reset-unclosed", "dead", 7, false, ETIMEDOUT, 0, RECORD_CONNECTED, 0},
    {"open", "open", 1, false, 0, 0, RECORD_CONNECTED, 0},
    {"open", "open", 1, false, 0, 100, RECORD_CONNECTED, 0},
    {"open", "open", 2, false, 0, 0, RECORD_CONNECTING, 0},
    {"open", "open", 3, false, 0, 0, 0, 0},
    {"not-judged", "none", 10, false, 0, 0, 0, 0},
};

static struct ledger_record record_of(const struct row *row) {
    struct ledger_record record = tcp(row->state, OLD_MS);
    record.eof_ns = row->told_eof ? 1 : 0;
    record.error = row->told_error;
    record.flags = row->flags;
    record.snapshot.recv_queue_bytes = row->queued_bytes;
    record.snapshot.flags |= row->snapshot_flags;
    return record;
}

static void every_row_of_the_table_has_its_verdict_and_group(void **state) {
    (void)state;
    const struct verdict_rules *rules[] = {&live, &at_end};
    for (int r = 0; r < 2; r++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct ledger_record record = record_of(&rows[i]);
            enum verdict verdict = verdict_of(&record, rules[r]);
            if (strcmp(verdict_name(verdict), rows[i].name) != 0)
                fail_msg("row %zu: %s instead of %s", i, verdict_name(verdict), rows[i].name);
            assert_string_equal(verdict_group_name(verdict_group(verdict)), rows[i].group);
        }
}

static void close_wait_and_dead_are_leaks_and_nothing_else_is(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ledger_record record = record_of(&rows[i]);
        bool leak = strcmp(rows[i].group, "close-wait") == 0 || strcmp(rows[i].group, "dead") == 0;
        assert_int_equal(verdict_is_leak(verdict_of(&record, &live)), leak);
    }
}

// --- grace --------------------------------------------------------------------------------------

static void assert_leaks_from(const struct row *row, const struct verdict_rules *rules,
                              uint32_t grace_ms) {
    struct ledger_record record = record_of(row);
    record.snapshot.state_age_ms = grace_ms - 1;
    assert_int_equal(verdict_of(&record, rules), VERDICT_OPEN); // shown as open, with its age
    record.snapshot.state_age_ms = grace_ms + 1;
    assert_string_equal(verdict_name(verdict_of(&record, rules)), row->name);
}

static void a_live_report_leaves_out_every_leak_younger_than_grace_ms(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].group, "close-wait") == 0 || strcmp(rows[i].group, "dead") == 0)
            assert_leaks_from(&rows[i], &live, GRACE_MS);
}

static void at_an_end_leaks_count_from_exit_grace_ms_on(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].group, "close-wait") == 0 || strcmp(rows[i].group, "dead") == 0)
            assert_leaks_from(&rows[i], &at_end, EXIT_GRACE_MS);
}

static void at_an_end_eof_ignored_counts_at_once_when_its_reader_went_on(void **state) {
    (void)state;
    struct ledger_record record = tcp(8, 0);
    record.eof_ns = 1;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_OPEN);
    record.snapshot.flags |= SNAPSHOT_READER_WENT_ON;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_EOF_IGNORED);
}

static void in_a_live_report_a_reader_that_went_on_has_its_grace_too(void **state) {
    (void)state;
    struct ledger_record record = tcp(8, GRACE_MS - 1);
    record.eof_ns = 1;
    record.snapshot.flags |= SNAPSHOT_READER_WENT_ON;
    assert_int_equal(verdict_of(&record, &live), VERDICT_OPEN);
}

static void only_end_of_stream_counts_at_once(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ledger_record record = record_of(&rows[i]);
        record.snapshot.state_age_ms = EXIT_GRACE_MS - 1;
        record.snapshot.flags |= SNAPSHOT_READER_WENT_ON;
        if (strcmp(rows[i].name, "eof-ignored") != 0)
            assert_false(verdict_is_leak(verdict_of(&record, &at_end)));
    }
}

static void where_the_age_is_only_a_bound_the_longer_grace_counts(void **state) {
    (void)state;
    struct ledger_record record = tcp(7, GRACE_MS - 1);
    record.flags = RECORD_CONNECTED;
    record.snapshot.flags |= SNAPSHOT_AGE_IS_BOUND;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_OPEN);
    record.snapshot.state_age_ms = GRACE_MS + 1;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_RESET_UNCLOSED);
    struct verdict_rules patient = at_end;
    patient.end_grace_ms = 5000; // the longer of the two, whichever it is
    assert_int_equal(verdict_of(&record, &patient), VERDICT_OPEN);
}

// Whatever has become of the connection since.
static void at_an_end_who_has_read_end_of_stream_had_its_chance_from_then_on(void **state) {
    (void)state;
    struct ledger_record record = tcp(7, 0);
    record.flags = RECORD_CONNECTED;
    record.snapshot.flags |= SNAPSHOT_AGE_IS_BOUND;
    record.snapshot.taken_ns = 10 * 1000000000ull;
    record.eof_ns = record.snapshot.taken_ns - (EXIT_GRACE_MS - 1) * 1000000ull;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_OPEN);
    record.eof_ns = record.snapshot.taken_ns - EXIT_GRACE_MS * 1000000ull;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_RESET_UNCLOSED);
    assert_int_equal(verdict_of(&record, &live), VERDICT_OPEN);
}

// A half-close (RFC 9293, 3.6): "a peer that sent FIN and still reads our answer" is healthy.
static void a_half_close_is_no_leak_while_the_answer_is_on_its_way(void **state) {
    (void)state;
    const struct verdict_rules *rules[] = {&live, &at_end};
    const uint32_t grace_ms[] = {GRACE_MS, EXIT_GRACE_MS};
    for (int r = 0; r < 2; r++) {
        struct ledger_record record = tcp(8, OLD_MS);
        record.eof_ns = 1;
        record.snapshot.last_data_sent_ms = grace_ms[r] - 1;
        assert_int_equal(verdict_of(&record, rules[r]), VERDICT_OPEN);
        record.snapshot.last_data_sent_ms = grace_ms[r];
        assert_int_equal(verdict_of(&record, rules[r]), VERDICT_EOF_IGNORED);
        record.snapshot.send_queue_bytes = 1;
        assert_int_equal(verdict_of(&record, rules[r]), VERDICT_OPEN);
    }
}

static void a_grace_of_zero_leaves_nothing_out(void **state) {
    (void)state;
    struct verdict_rules strict = live;
    strict.grace_ms = 0;
    struct ledger_record record = tcp(8, 0);
    assert_int_equal(verdict_of(&record, &strict), VERDICT_FIN_UNREAD);
}

// --- what is judged -----------------------------------------------------------------------------

static void datagrams_are_no_findings(void **state) {
    (void)state;
    struct ledger_record record = tcp(7, OLD_MS);
    record.type = SOCK_DGRAM;
    record.flags = RECORD_CONNECTED;
    assert_int_equal(verdict_of(&record, &live), VERDICT_NOT_JUDGED);
}

static void families_are_judged_where_they_were_asked_for(void **state) {
    (void)state;
    static const struct {
        uint16_t family;
        bool unix_sockets, inet_sockets, judged;
    } cases[] = {
        {AF_INET, false, true, true},   {AF_INET6, false, true, true},
        {AF_UNIX, false, true, false},  {AF_INET, true, false, false},
        {AF_UNIX, true, false, true},   {AF_UNIX, true, true, true},
        {AF_INET6, true, true, true},   {AF_NETLINK, true, true, false},
        {AF_UNSPEC, true, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ledger_record record = tcp(8, OLD_MS);
        record.family = cases[i].family;
        struct verdict_rules rules = live;
        rules.unix_sockets = cases[i].unix_sockets;
        rules.inet_sockets = cases[i].inet_sockets;
        assert_int_equal(verdict_of(&record, &rules) != VERDICT_NOT_JUDGED, cases[i].judged);
    }
}

static void what_the_parent_or_a_starter_holds_is_not_this_processs_leak(void **state) {
    (void)state;
    static const uint16_t whose[] = {SNAPSHOT_HELD_BY_PARENT, SNAPSHOT_STANDARD_STREAM};
    for (int i = 0; i < 2; i++) {
        struct ledger_record record = tcp(8, OLD_MS);
        record.eof_ns = 1;
        record.snapshot.flags |= whose[i] | SNAPSHOT_READER_WENT_ON;
        assert_int_equal(verdict_of(&record, &at_end), VERDICT_OPEN);
    }
}

static void without_a_snapshot_what_the_program_was_told_decides(void **state) {
    (void)state;
    struct ledger_record record = tcp(0, 0);
    record.snapshot = (struct ledger_snapshot){0};
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_OPEN);
    record.eof_ns = 1;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_EOF_IGNORED);
    record.error = ECONNRESET;
    assert_int_equal(verdict_of(&record, &at_end), VERDICT_RESET_UNCLOSED);
}

static void a_record_is_inherited_where_another_process_last_touched_it(void **state) {
    (void)state;
    struct ledger_record record = tcp(8, 0);
    assert_false(verdict_is_inherited(&record, 1));
    assert_true(verdict_is_inherited(&record, 2));
}

static void a_verdict_from_a_hostile_ledger_has_a_name(void **state) {
    (void)state;
    assert_string_equal(verdict_name((enum verdict)200), "not-judged");
    assert_int_equal(verdict_group((enum verdict) - 1), GROUP_NONE);
    assert_non_null(verdict_explanation((enum verdict)VERDICT_COUNT));
    assert_string_equal(verdict_group_name((enum verdict_group)99), "none");
    for (int state_byte = 0; state_byte < 256; state_byte++) {
        struct ledger_record record = tcp((uint8_t)state_byte, OLD_MS);
        assert_non_null(verdict_name(verdict_of(&record, &live)));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_of_the_table_has_its_verdict_and_group),
        cmocka_unit_test(close_wait_and_dead_are_leaks_and_nothing_else_is),
        cmocka_unit_test(a_live_report_leaves_out_every_leak_younger_than_grace_ms),
        cmocka_unit_test(at_an_end_leaks_count_from_exit_grace_ms_on),
        cmocka_unit_test(at_an_end_eof_ignored_counts_at_once_when_its_reader_went_on),
        cmocka_unit_test(in_a_live_report_a_reader_that_went_on_has_its_grace_too),
        cmocka_unit_test(only_end_of_stream_counts_at_once),
        cmocka_unit_test(where_the_age_is_only_a_bound_the_longer_grace_counts),
        cmocka_unit_test(at_an_end_who_has_read_end_of_stream_had_its_chance_from_then_on),
        cmocka_unit_test(a_half_close_is_no_leak_while_the_answer_is_on_its_way),
        cmocka_unit_test(a_grace_of_zero_leaves_nothing_out),
        cmocka_unit_test(datagrams_are_no_findings),
        cmocka_unit_test(families_are_judged_where_they_were_asked_for),
        cmocka_unit_test(what_the_parent_or_a_starter_holds_is_not_this_processs_leak),
        cmocka_unit_test(without_a_snapshot_what_the_program_was_told_decides),
        cmocka_unit_test(a_record_is_inherited_where_another_process_last_touched_it),
        cmocka_unit_test(a_verdict_from_a_hostile_ledger_has_a_name),
    };
    return cmocka_run_group_tests_name("verdict", tests, NULL, NULL);
}
