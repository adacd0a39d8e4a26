// report/cause: each cause only with its evidence, and what is said of it.
#include "report/cause.h"
#include "report/verdict.h"
#include "unit.h"
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum {
    GRACE_MS = 1000,
    OWNER = 7,
    FD = 5,
    OTHER_FD = 9
};
#define NOW_NS (1000ull * 1000000000)
#define MS(n) ((uint64_t)(n)*1000000)

static struct ledger_record other; // the socket that the thread may be stuck on

static struct ledger_record leak(enum verdict verdict, uint32_t fin_ms) {
    return (struct ledger_record){
        .inode = 1,
        .family = AF_INET,
        .type = SOCK_STREAM,
        .process = 1,
        .birth_call = CALL_ACCEPT4,
        .birth_ns = NOW_NS - MS(100000),
        .birth_tid = OWNER,
        .flags = RECORD_CONNECTED,
        .first_fd = FD,
        .fd_count = 1,
        .snapshot = {.taken_ns = NOW_NS,
                     .state = STATE_CLOSE_WAIT,
                     .verdict = (uint8_t)verdict,
                     .state_age_ms = fin_ms,
                     .last_data_sent_ms = 100000,
                     .last_data_recv_ms = 100000,
                     .flags = SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO},
    };
}

static struct ledger_record read_to_its_end(uint32_t eof_ms) {
    struct ledger_record record = leak(VERDICT_EOF_IGNORED, eof_ms + 1);
    record.eof_ns = NOW_NS - MS(eof_ms);
    record.eof_tid = OWNER;
    record.eof_call = CALL_RECV;
    return record;
}

static void owner_is_in(struct ledger_record *record, int call, int fd) {
    record->snapshot.thread = OWNER;
    record->snapshot.thread_call = call;
    record->snapshot.thread_fd = fd;
}

// In a call on `other`, open for `open_ms`, which moved no data for `silent_ms`.
static struct cause_facts stuck_on_other(struct ledger_record *record, int call, uint32_t open_ms,
                                         uint32_t silent_ms) {
    owner_is_in(record, call, OTHER_FD);
    record->snapshot.thread_fd_type = 1;
    record->snapshot.thread_fd_record = 2;
    other = leak(VERDICT_OPEN, 0);
    other.inode = 2;
    other.first_fd = OTHER_FD;
    other.birth_ns = NOW_NS - MS(open_ms);
    other.snapshot.state = STATE_ESTABLISHED;
    other.snapshot.last_data_sent_ms = silent_ms;
    other.snapshot.last_data_recv_ms = silent_ms + 5;
    return (struct cause_facts){.process = 1, .grace_ms = GRACE_MS, .waited_on = &other};
}

static const struct cause_facts alone = {.process = 1, .grace_ms = GRACE_MS};

static void assert_cause(const struct ledger_record *record, const struct cause_facts *facts,
                         enum ledger_cause cause) {
    assert_string_equal(cause_name(cause_of(record, facts)), cause_name(cause));
}

static const char *said(const struct ledger_record *record, const struct cause_facts *facts) {
    static char memory[1024];
    struct text_buffer out = text_buffer(memory, sizeof memory);
    cause_sentence(&out, cause_of(record, facts), record, facts);
    return memory;
}

// --- forgotten ----------------------------------------------------------------------------------

static void a_reader_that_waits_for_the_next_client_has_forgotten(void **state) {
    (void)state;
    static const int calls[] = {SYS_accept4, SYS_epoll_pwait, SYS_futex, SYS_clock_nanosleep, -2};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct ledger_record record = read_to_its_end(5000);
        owner_is_in(&record, calls[i], -1);
        assert_cause(&record, &alone, CAUSE_FORGOTTEN);
    }
}

static void a_reader_that_ends_the_process_or_was_seen_since_has_forgotten(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    record.snapshot.flags |= SNAPSHOT_READER_WENT_ON;
    assert_cause(&record, &alone, CAUSE_FORGOTTEN);
    record = read_to_its_end(5000);
    record.snapshot.flags |= SNAPSHOT_READER_SEEN_SINCE;
    assert_cause(&record, &alone, CAUSE_FORGOTTEN);
    record.snapshot.flags = SNAPSHOT_READER_SEEN_SINCE; // by a process that was killed
    assert_cause(&record, &alone, CAUSE_FORGOTTEN);
    record.snapshot.flags = 0;
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
}

static void of_a_reader_that_is_running_or_not_known_nothing_is_said(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
    owner_is_in(&record, -1, -1);
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
    assert_string_equal(said(&record, &alone), "");
}

static void a_reader_that_still_writes_to_it_has_not_gone_on(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    owner_is_in(&record, SYS_sendto, FD);
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
}

static void the_call_site_tells_how_often_it_was_closed(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    owner_is_in(&record, SYS_accept4, 3);
    struct ledger_stack site = {.opened = 1000, .closed = 998};
    struct cause_facts facts = alone;
    facts.site = &site;
    assert_string_equal(said(&record, &facts),
                        "thread 7 read end of stream and went on, it is in accept4 on fd 3; closed "
                        "properly 998 of 1000 times from this call site: look for an early return");
    site.closed = 0;
    assert_non_null(strstr(said(&record, &facts), "; never closed from this call site"));
    site = (struct ledger_stack){.opened = 1, .closed = 1}; // a parent its copy, and not a child
    assert_string_equal(said(&record, &facts),
                        "thread 7 read end of stream and went on, it is in accept4 on fd 3");
}

// --- blocked ------------------------------------------------------------------------------------

static void a_reader_stuck_on_a_socket_that_it_had_before_is_blocked(void **state) {
    (void)state;
    static const int calls[] = {SYS_recvfrom, SYS_read, SYS_sendto, SYS_connect, SYS_recvmsg};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct ledger_record record = read_to_its_end(5000);
        struct cause_facts facts = stuck_on_other(&record, calls[i], 6000, 4900);
        assert_cause(&record, &facts, CAUSE_BLOCKED);
    }
}

static void a_reader_on_a_socket_opened_since_has_gone_on(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    struct cause_facts facts = stuck_on_other(&record, SYS_recvfrom, 4000, 3900);
    assert_cause(&record, &facts, CAUSE_FORGOTTEN);
}

static void a_reader_on_a_socket_that_moved_data_since_has_gone_on(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    struct cause_facts facts = stuck_on_other(&record, SYS_recvfrom, 60000, 2000);
    assert_cause(&record, &facts, CAUSE_FORGOTTEN);
}

static void a_wait_shorter_than_grace_is_no_block(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_FIN_UNREAD, GRACE_MS);
    struct cause_facts facts = stuck_on_other(&record, SYS_recvfrom, 60000, GRACE_MS - 1);
    assert_cause(&record, &facts, CAUSE_UNKNOWN);
    facts = stuck_on_other(&record, SYS_recvfrom, 60000, GRACE_MS);
    assert_cause(&record, &facts, CAUSE_BLOCKED);
}

static void an_owner_that_was_stuck_before_the_fin_is_blocked_and_it_is_said_on_what(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_FIN_UNREAD, 20000);
    struct cause_facts facts = stuck_on_other(&record, SYS_recvfrom, 90000, 58300);
    other.peer = (struct ledger_address){.family = ADDRESS_INET, .port = 5432, .ip = {10, 0, 0, 2}};
    other.snapshot.properties = PROPERTY_NO_READ_TIMEOUT | PROPERTY_NO_KEEPALIVE;
    other.snapshot.properties_known = PROPERTY_NO_READ_TIMEOUT | PROPERTY_NO_KEEPALIVE;
    assert_cause(&record, &facts, CAUSE_BLOCKED);
    assert_string_equal(said(&record, &facts),
                        "thread 7, which opened it, is stuck in recvfrom on fd 9 (peer "
                        "10.0.0.2:5432), silent for 58.3 s, with no read timeout and no keepalive: "
                        "give that call a time limit");
    other.snapshot.properties = 0;
    assert_null(strstr(said(&record, &facts), "timeout"));
}

static void whether_the_socket_it_is_stuck_on_has_a_time_limit_is_said(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_FIN_UNREAD, 20000);
    struct cause_facts facts = stuck_on_other(&record, SYS_recvfrom, 90000, 58300);
    other.snapshot.properties_known = PROPERTY_NO_READ_TIMEOUT | PROPERTY_BLOCKING_MODE;
    other.snapshot.properties = PROPERTY_BLOCKING_MODE;
    assert_non_null(strstr(said(&record, &facts), "58.3 s, although a read timeout is set"));
    assert_null(strstr(said(&record, &facts), "give that call"));
    other.snapshot.properties = 0;
    assert_non_null(
        strstr(said(&record, &facts), "58.3 s, in non-blocking mode: give that call a time limit"));
}

static void an_owner_that_waits_for_what_comes_next_is_not_blocked(void **state) {
    (void)state;
    static const int calls[] = {SYS_accept, SYS_accept4, SYS_epoll_pwait, SYS_futex};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct ledger_record record = leak(VERDICT_FIN_UNREAD, 20000);
        struct cause_facts facts = stuck_on_other(&record, calls[i], 90000, 58000);
        assert_cause(&record, &facts, CAUSE_UNKNOWN);
    }
}

static void an_owner_that_waits_on_that_socket_itself_is_not_blocked(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_FIN_UNREAD, 20000);
    struct cause_facts facts = stuck_on_other(&record, SYS_sendto, 90000, 58000);
    facts.waited_on = &record;
    record.snapshot.thread_fd = FD;
    assert_cause(&record, &facts, CAUSE_UNKNOWN);
}

static void an_owner_that_waits_for_a_child_or_a_pipe_is_blocked(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_DATA_UNREAD, 20000);
    owner_is_in(&record, SYS_wait4, -1);
    assert_cause(&record, &alone, CAUSE_BLOCKED);
    assert_string_equal(said(&record, &alone), "thread 7, which opened it, is stuck in wait4");
    owner_is_in(&record, SYS_read, 0);
    assert_cause(&record, &alone, CAUSE_BLOCKED);
    struct ledger_record read = read_to_its_end(5000); // that one went on
    owner_is_in(&read, SYS_read, 0);
    assert_cause(&read, &alone, CAUSE_FORGOTTEN);
}

// --- idle-pool ----------------------------------------------------------------------------------

static struct ledger_record pooled(uint32_t fin_ms, uint32_t unused_ms) {
    struct ledger_record record = leak(VERDICT_FIN_UNREAD, fin_ms);
    record.birth_call = CALL_SOCKET;
    record.snapshot.flags |= SNAPSHOT_DATA_SENT | SNAPSHOT_DATA_RECEIVED;
    record.snapshot.last_data_sent_ms = unused_ms + 30;
    record.snapshot.last_data_recv_ms = unused_ms;
    return record;
}

static void a_clients_connection_that_was_used_and_closed_later_is_a_pools(void **state) {
    (void)state;
    struct ledger_record record = pooled(20000, 60000);
    assert_cause(&record, &alone, CAUSE_IDLE_POOL);
    assert_string_equal(said(&record, &alone),
                        "the peer closed it 40.0 s after last use: the pool keeps connections "
                        "longer than the server's keep-alive");
}

static void a_server_that_keeps_nothing_is_told_from_one_that_does(void **state) {
    (void)state;
    struct ledger_record record = pooled(20000, 20004);
    assert_cause(&record, &alone, CAUSE_IDLE_POOL);
    assert_non_null(strstr(said(&record, &alone), "right after its last use"));
}

static void without_data_both_ways_or_for_a_servers_connection_it_is_no_pool(void **state) {
    (void)state;
    struct ledger_record record = pooled(20000, 60000);
    record.snapshot.flags &= (uint16_t)~SNAPSHOT_DATA_RECEIVED;
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
    record = pooled(20000, 60000);
    record.birth_call = CALL_ACCEPT4;
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
    record = pooled(20000, 60000);
    owner_is_in(&record, SYS_recvfrom, FD); // somebody waits on it
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
}

// --- inherited, half-close ----------------------------------------------------------------------

static void what_a_fork_a_dup_or_an_exec_left_is_inherited(void **state) {
    (void)state;
    struct ledger_record record = read_to_its_end(5000);
    record.process = 2;
    assert_cause(&record, &alone, CAUSE_INHERITED);
    assert_non_null(strstr(said(&record, &alone), "a fork left it here"));
    record = read_to_its_end(5000);
    record.fds_closed = 1;
    assert_cause(&record, &alone, CAUSE_INHERITED);
    assert_string_equal(said(&record, &alone),
                        "closed on 1 descriptor, and a duplicate (fd 5) keeps it open");
    record = leak(VERDICT_FIN_UNREAD, 5000);
    struct cause_facts facts = alone;
    facts.is_left_by_exec = true;
    assert_cause(&record, &facts, CAUSE_INHERITED);
    assert_non_null(strstr(said(&record, &facts), "SOCK_CLOEXEC"));
}

static void what_only_the_children_close_is_kept_after_fork(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_FIN_UNREAD, 5000);
    struct ledger_stack site = {.opened = 3, .closed = 2};
    struct cause_facts facts = alone;
    facts.site = &site;
    facts.closed_by_children = 3;
    assert_cause(&record, &facts, CAUSE_INHERITED);
    assert_non_null(strstr(said(&record, &facts), "close it after fork"));
    site.closed = 3; // it closes as many as they do: it does not forget
    assert_cause(&record, &facts, CAUSE_UNKNOWN);
}

static void an_open_socket_that_still_sends_to_a_peer_that_closed_is_a_half_close(void **state) {
    (void)state;
    struct ledger_record record = leak(VERDICT_OPEN, 5000);
    record.snapshot.last_data_sent_ms = GRACE_MS - 1;
    assert_cause(&record, &alone, CAUSE_HALF_CLOSE);
    record.snapshot.last_data_sent_ms = GRACE_MS;
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
    record.snapshot.send_queue_bytes = 1;
    assert_cause(&record, &alone, CAUSE_HALF_CLOSE);
    record.snapshot.state = STATE_ESTABLISHED;
    assert_cause(&record, &alone, CAUSE_UNKNOWN);
}

static void numbers_that_mean_nothing_are_survived(void **state) {
    (void)state;
    struct ledger_record record;
    memset(&record, 0xff, sizeof record);
    struct cause_facts facts = {.waited_on = &record, .site = NULL};
    assert_cause(&record, &facts, CAUSE_UNKNOWN);
    assert_string_equal(cause_name((enum ledger_cause)99), "unknown");
    assert_null(cause_property_name(1 << 9));
    assert_string_equal(cause_property_name(PROPERTY_NO_CLOEXEC), "no-cloexec");
    assert_string_equal(said(&record, &facts), "");
    for (int cause = 0; cause < 8; cause++) {
        char memory[1024];
        struct text_buffer out = text_buffer(memory, sizeof memory);
        cause_sentence(&out, (enum ledger_cause)cause, &record, &facts);
        assert_false(out.truncated);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reader_that_waits_for_the_next_client_has_forgotten),
        cmocka_unit_test(a_reader_that_ends_the_process_or_was_seen_since_has_forgotten),
        cmocka_unit_test(of_a_reader_that_is_running_or_not_known_nothing_is_said),
        cmocka_unit_test(a_reader_that_still_writes_to_it_has_not_gone_on),
        cmocka_unit_test(the_call_site_tells_how_often_it_was_closed),
        cmocka_unit_test(a_reader_stuck_on_a_socket_that_it_had_before_is_blocked),
        cmocka_unit_test(a_reader_on_a_socket_opened_since_has_gone_on),
        cmocka_unit_test(a_reader_on_a_socket_that_moved_data_since_has_gone_on),
        cmocka_unit_test(a_wait_shorter_than_grace_is_no_block),
        cmocka_unit_test(an_owner_that_was_stuck_before_the_fin_is_blocked_and_it_is_said_on_what),
        cmocka_unit_test(whether_the_socket_it_is_stuck_on_has_a_time_limit_is_said),
        cmocka_unit_test(an_owner_that_waits_for_what_comes_next_is_not_blocked),
        cmocka_unit_test(an_owner_that_waits_on_that_socket_itself_is_not_blocked),
        cmocka_unit_test(an_owner_that_waits_for_a_child_or_a_pipe_is_blocked),
        cmocka_unit_test(a_clients_connection_that_was_used_and_closed_later_is_a_pools),
        cmocka_unit_test(a_server_that_keeps_nothing_is_told_from_one_that_does),
        cmocka_unit_test(without_data_both_ways_or_for_a_servers_connection_it_is_no_pool),
        cmocka_unit_test(what_a_fork_a_dup_or_an_exec_left_is_inherited),
        cmocka_unit_test(what_only_the_children_close_is_kept_after_fork),
        cmocka_unit_test(an_open_socket_that_still_sends_to_a_peer_that_closed_is_a_half_close),
        cmocka_unit_test(numbers_that_mean_nothing_are_survived),
    };
    return cmocka_run_group_tests_name("cause", tests, NULL, NULL);
}
