// track/addresses: which sockets' addresses a ledger file keeps for the case that its process is
// killed, and when they are asked for.
#include "base/options.h"
#include "connections.h"
#include "fake_unwinder.h"
#include "sockets.h"
#include "track/addresses.h"
#include "track/tracker.h"
#include "unit.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct ledger_record *record_of(int fd) {
    uint32_t number = ledger_fd(fd);
    assert_int_not_equal(number, 0);
    return ledger_record(number);
}

static void remove_all_in(const char *name) {
    DIR *directory = opendir(name);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.')
            assert_int_equal(unlinkat(dirfd(directory), entry->d_name, 0), 0);
    closedir(directory);
    assert_int_equal(rmdir(name), 0);
}

// A connection whose end was read. It came by SCM_RIGHTS: nobody has told its family.
static void read_an_end(bool with_a_file) {
    char name[] = "/tmp/test_addresses.XXXXXX";
    assert_non_null(mkdtemp(name));
    options_parse(NULL);
    if (with_a_file)
        memcpy(options.ledger_dir, name, sizeof name);
    caller = fake_stack_set(1, 4, 0);
    pair = tcp_pair(AF_INET);
    tracker_received(pair.ours, CALL_RECVMSG, caller);
    bool is_file = ledger_is_file();
    remove_all_in(name);
    assert_int_equal(is_file, with_a_file);
    peer_closes(&pair);
    read_once(pair.ours);
    assert_int_not_equal(record_of(pair.ours)->eof_ns, 0);
}

static void assert_told(int fd) {
    struct sockaddr_in peer, local;
    socklen_t bytes = sizeof peer;
    assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &bytes), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&local, &bytes), 0);
    assert_int_equal(record_of(fd)->local.family, ADDRESS_INET);
    assert_int_equal(record_of(fd)->local.port, ntohs(local.sin_port));
    assert_int_equal(record_of(fd)->peer.family, ADDRESS_INET);
    assert_int_equal(record_of(fd)->peer.port, ntohs(peer.sin_port));
}

static void assert_untold(int fd) {
    assert_int_equal(record_of(fd)->local.family, ADDRESS_NONE);
    assert_int_equal(record_of(fd)->peer.family, ADDRESS_NONE);
}

ISOLATED(a_socket_that_is_kept_behind_its_end_has_its_addresses_when_the_next_is_born) {
    read_an_end(true);
    assert_untold(pair.ours);
    int first = pair.ours;
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    assert_told(first);
    assert_untold(pair.ours);
}

ISOLATED(it_has_them_when_the_next_one_ends) {
    read_an_end(true);
    struct tcp_pair first = pair;
    pair = tcp_pair(AF_INET);
    tracker_received(pair.ours, CALL_RECVMSG, caller);
    assert_told(first.ours);
    peer_closes(&pair);
    read_once(pair.ours);
    struct tcp_pair second = pair;
    pair = tcp_pair(AF_INET);
    peer_resets(&pair);
    read_once(pair.ours);
    assert_untold(second.ours); // nothing is known of the third: it changes nothing
    address_settle();           // as an accept does
    assert_told(second.ours);
}

// What a program closes right after it has read the end costs nothing.
ISOLATED(a_socket_that_is_closed_is_not_asked) {
    read_an_end(true);
    uint32_t number = ledger_fd(pair.ours);
    assert_true(ledger_fd_hold(pair.ours));
    tracker_closing(pair.ours, NULL);
    address_settle();
    assert_int_equal(ledger_record(number)->peer.family, ADDRESS_NONE);
    assert_int_equal(address_unsettled, 0);
}

ISOLATED(the_numbers_next_owner_is_not_taken_for_it) {
    read_an_end(true);
    uint32_t number = ledger_fd(pair.ours);
    assert_true(ledger_fd_hold(pair.ours)); // or the next one gets the same record
    tracker_closing(pair.ours, NULL);
    int next = pair.ours;
    assert_int_equal(dup2(socket(AF_INET, SOCK_STREAM, 0), next), next);
    tracker_received(next, CALL_RECVMSG, caller);
    assert_int_not_equal(ledger_fd(next), number);
    address_settle();
    assert_untold(next);
    assert_int_equal(ledger_record(number)->peer.family, ADDRESS_NONE);
}

ISOLATED(without_a_file_a_report_asks_itself) {
    read_an_end(false);
    assert_int_equal(address_unsettled, 0);
    assert_untold(pair.ours);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            a_socket_that_is_kept_behind_its_end_has_its_addresses_when_the_next_is_born),
        cmocka_unit_test(it_has_them_when_the_next_one_ends),
        cmocka_unit_test(a_socket_that_is_closed_is_not_asked),
        cmocka_unit_test(the_numbers_next_owner_is_not_taken_for_it),
        cmocka_unit_test(without_a_file_a_report_asks_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
