// report/exhaustion: what is counted of a snapshot, in which words, and how seldom.
#include "base/options.h"
#include "fake_clock.h"
#include "fake_unwinder.h"
#include "ledger/ledger.h"
#include "report/exhaustion.h"
#include "report/trigger.h"
#include "track/tracker.h"
#include "unit.h"
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define SECONDS(n) ((uint64_t)(n)*1000000000)

// --- a trigger that remembers -------------------------------------------------------------------

static struct exhaustion last;
static int reports;
static bool trigger_is_busy;

bool trigger_exhausted(struct exhaustion *exhaustion) {
    if (trigger_is_busy)
        return false;
    last = *exhaustion;
    reports++;
    return true;
}

// --- sockets ------------------------------------------------------------------------------------

enum {
    SOCKETS = 6
};
static uint32_t sockets[SOCKETS];
static uint32_t tally[16];

static void with_sockets(void) {
    options_parse(NULL);
    fake_clock_now_ns = SECONDS(1000);
    for (int i = 0; i < SOCKETS; i++) {
        const void *caller = fake_stack_set(1, 4, (unsigned)(i < 2 ? 0 : 1));
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        tracker_born(
            fd, &(struct tracker_birth){
                    .call = CALL_SOCKET, .family = AF_INET, .type = SOCK_STREAM, .caller = caller});
        sockets[i] = ledger_fd(fd);
        ledger_record(sockets[i])->fd_count = 1;
        ledger_record(sockets[i])->snapshot.state = i < 3 ? STATE_CLOSE_WAIT : STATE_ESTABLISHED;
    }
}

static struct exhaustion counted(enum ledger_exhaustion kind, uint64_t limit) {
    struct exhaustion exhaustion = {.kind = kind, .limit = limit};
    memset(tally, 0, sizeof tally);
    exhaustion_count(&exhaustion, sockets, SOCKETS, tally);
    return exhaustion;
}

static const char *said(const struct exhaustion *exhaustion) {
    static char memory[512];
    struct text_buffer out = text_buffer(memory, sizeof memory);
    exhaustion_sentence(&out, exhaustion);
    return memory;
}

ISOLATED(sockets_in_close_wait_are_counted_and_most_are_of_one_stack) {
    with_sockets();
    struct exhaustion e = counted(EXHAUSTED_PROCESS_FDS, 1024);
    assert_int_equal(e.sockets, 6);
    assert_int_equal(e.close_wait, 3);
    assert_int_equal(e.of_stack, 2);
    assert_int_equal(e.stack, ledger_record(sockets[0])->birth_stack);
    assert_string_equal(said(&e), "too many open files (EMFILE): 3 of 1024 descriptors are sockets "
                                  "in CLOSE_WAIT, 2 of them from this stack");
    ledger_record(sockets[0])->fd_count = 3; // duplicates are descriptors, too
    e = counted(EXHAUSTED_PROCESS_FDS, 0);
    assert_int_equal(e.close_wait, 5);
    assert_int_equal(e.of_stack, 4);
}

ISOLATED(where_none_is_in_close_wait_all_count) {
    with_sockets();
    for (int i = 0; i < SOCKETS; i++)
        ledger_record(sockets[i])->snapshot.state = STATE_ESTABLISHED;
    struct exhaustion e = counted(EXHAUSTED_MAX_OPEN, 6);
    assert_string_equal(said(&e), "max_open=6 is reached: 6 descriptors are sockets, none in "
                                  "CLOSE_WAIT, 4 of them from this stack");
    exhaustion_count(&e, sockets, SOCKETS, NULL); // no memory for a tally
    assert_string_equal(said(&e), "max_open=6 is reached: 6 descriptors are sockets, none in "
                                  "CLOSE_WAIT");
}

ISOLATED(each_kind_has_its_words) {
    with_sockets();
    static const struct {
        enum ledger_exhaustion kind;
        int error;
        const char *begin, *when;
    } kinds[] = {
        {EXHAUSTED_PROCESS_FDS, EMFILE, "too many open files (EMFILE): ", "at EMFILE in"},
        {EXHAUSTED_SYSTEM_FDS, ENFILE,
         "too many open files in the system (ENFILE): ", "at ENFILE in"},
        {EXHAUSTED_PORTS, EADDRNOTAVAIL, "no free port for ", "at EADDRNOTAVAIL in"},
        {EXHAUSTED_MEMORY, ENOMEM, "no memory (ENOMEM): ", "at ENOMEM in"},
        {EXHAUSTED_MEMORY, ENOBUFS, "no buffer space for sockets (ENOBUFS): ", "at ENOBUFS in"},
        {EXHAUSTED_MAX_OPEN, 0, "max_open=", "at max_open in"},
        {EXHAUSTED_MAX_CLOSE_WAIT, 0, "max_close_wait=", "at max_close_wait in"},
        {EXHAUSTED_LEAK_AFTER, 0,
         "a socket has been in CLOSE_WAIT for longer than leak_after=", "at leak_after in"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct exhaustion e = counted(kinds[i].kind, 7);
        e.error = kinds[i].error;
        assert_int_equal(strncmp(said(&e), kinds[i].begin, strlen(kinds[i].begin)), 0);
        assert_string_equal(exhaustion_when(&e), kinds[i].when);
    }
}

ISOLATED(ports_are_told_with_their_range_time_wait_and_call_site) {
    with_sockets();
    struct ledger_stack *site = &ledger.stacks[1];
    site->recent_active[1000 / 4 % 16] = (1000ull / 4) << 32 | 20;
    site->recent_active[(1000 / 4 - 14) % 16] = (1000ull / 4 - 14) << 32 | 8;
    site->recent_active[(1000 / 4 - 15) % 16] = (1000ull / 4 - 15) << 32 | 500; // over a minute ago
    struct exhaustion e = counted(EXHAUSTED_PORTS, 28232);
    e.time_wait = 27110;
    e.peer = (struct ledger_address){.family = ADDRESS_INET, .port = 80, .ip = {10, 0, 0, 2}};
    assert_string_equal(
        said(&e), "no free port for 10.0.0.2:80 (EADDRNOTAVAIL): 28232 in ip_local_port_range, "
                  "27110 sockets in TIME_WAIT, 6 open in this process; closed first in the "
                  "last minute: 28 from this stack");
}

// --- how seldom ---------------------------------------------------------------------------------

ISOLATED(a_kind_is_reported_once_an_interval_and_always_counted) {
    with_sockets();
    const uint64_t *times = ledger.header->counters.exhausted;
    for (int i = 0; i < 5; i++)
        exhaustion_failed(EMFILE, NULL, 0);
    assert_int_equal(reports, 1);
    assert_int_equal(times[EXHAUSTED_PROCESS_FDS], 5);
    assert_true(last.limit > 0);
    exhaustion_failed(ENFILE, NULL, 0); // another kind
    assert_int_equal(reports, 2);
    fake_clock_now_ns += SECONDS(60) - 1;
    exhaustion_failed(EMFILE, NULL, 0);
    assert_int_equal(reports, 2);
    fake_clock_now_ns += 1;
    exhaustion_failed(EMFILE, NULL, 0);
    assert_int_equal(reports, 3);
    assert_int_equal(times[EXHAUSTED_PROCESS_FDS], 7);
}

ISOLATED(a_report_that_was_skipped_is_made_at_the_next_occasion) {
    with_sockets();
    trigger_is_busy = true;
    exhaustion_failed(EMFILE, NULL, 0);
    trigger_is_busy = false;
    exhaustion_failed(EMFILE, NULL, 0);
    assert_int_equal(reports, 1);
}

static void in_child(void *unused) {
    (void)unused;
    tracker_continue_in_child();
    reports = 0;
    exhaustion_failed(EMFILE, NULL, 0);
    assert_int_equal(reports, 1);
    assert_int_equal(ledger.header->counters.exhausted[EXHAUSTED_PROCESS_FDS], 1);
}

ISOLATED(a_forked_child_reports_for_itself) {
    with_sockets();
    exhaustion_failed(EMFILE, NULL, 0);
    child_must_pass(in_child, NULL);
}

ISOLATED(an_address_that_is_none_of_this_machines_is_no_lack_of_ports) {
    with_sockets();
    struct sockaddr_in6 peer = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    exhaustion_failed(EADDRNOTAVAIL, NULL, 0);
    exhaustion_failed(EADDRNOTAVAIL, (struct sockaddr *)&peer, 2);
    peer.sin6_family = AF_UNIX;
    exhaustion_failed(EADDRNOTAVAIL, (struct sockaddr *)&peer, sizeof peer);
    assert_int_equal(reports, 0);
    struct sockaddr_in here = {
        .sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    exhaustion_failed(EADDRNOTAVAIL, (struct sockaddr *)&here, sizeof here);
    assert_int_equal(reports, 1);
    assert_int_equal(last.peer.port, 80);
    assert_true(last.limit > 1000); // this machine's range
}

ISOLATED(errno_and_a_process_without_sockets_are_left_alone) {
    options_parse(NULL);
    errno = EMFILE;
    exhaustion_after(-1, NULL, 0);
    assert_int_equal(reports, 0);
    with_sockets();
    errno = EMFILE;
    exhaustion_after(-1, NULL, 0);
    assert_int_equal(errno, EMFILE);
    assert_int_equal(reports, 1);
    exhaustion_after(3, NULL, 0); // no failure, whatever errno says
    errno = EBADF;
    exhaustion_after(-1, NULL, 0);
    assert_int_equal(ledger.header->counters.exhausted[EXHAUSTED_PROCESS_FDS], 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sockets_in_close_wait_are_counted_and_most_are_of_one_stack),
        cmocka_unit_test(where_none_is_in_close_wait_all_count),
        cmocka_unit_test(each_kind_has_its_words),
        cmocka_unit_test(ports_are_told_with_their_range_time_wait_and_call_site),
        cmocka_unit_test(a_kind_is_reported_once_an_interval_and_always_counted),
        cmocka_unit_test(a_report_that_was_skipped_is_made_at_the_next_occasion),
        cmocka_unit_test(a_forked_child_reports_for_itself),
        cmocka_unit_test(an_address_that_is_none_of_this_machines_is_no_lack_of_ports),
        cmocka_unit_test(errno_and_a_process_without_sockets_are_left_alone),
    };
    return cmocka_run_group_tests_name("exhaustion", tests, NULL, NULL);
}
