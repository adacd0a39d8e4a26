#include "connections.h"
#include "unit.h"
#include <errno.h>
#include <unistd.h>

const void *caller;
struct tcp_pair pair;

void born(int fd, enum ledger_call call) {
    tracker_born(fd, &(struct tracker_birth){
                         .call = call, .family = AF_INET, .type = SOCK_STREAM, .caller = caller});
}

void accept_another(void) {
    pair = tcp_pair(AF_INET);
    born(pair.ours, CALL_ACCEPT);
    ledger_record(ledger_fd(pair.ours))->flags = RECORD_CONNECTED;
}

void accepted(void) {
    options_parse(NULL);
    fake_clock_now_ns = SECONDS(100);
    caller = fake_stack_set(1, 4, 0);
    accept_another();
}

struct sockaddr_in address_of(int listener) {
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    return address;
}

void connect_another(void) {
    pair = tcp_pair(AF_INET);
    int swapped = pair.ours;
    pair.ours = pair.peers;
    pair.peers = swapped;
    born(pair.ours, CALL_SOCKET);
    struct sockaddr_in address = address_of(pair.listener);
    tracker_connected(pair.ours, (struct sockaddr *)&address, sizeof address, 0, caller);
}

void connected(void) {
    options_parse(NULL);
    fake_clock_now_ns = SECONDS(100);
    caller = fake_stack_set(1, 4, 0);
    connect_another();
}

const struct ledger_stack *site(void) {
    return &ledger.stacks[1];
}

void read_once(int fd) {
    char bytes[16];
    ssize_t got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got == 0)
        tracker_read_nothing(fd, CALL_RECV, caller);
    else if (got < 0)
        tracker_read_failed(fd, CALL_RECV, errno, caller);
}

void shut_down(int fd, int how) {
    uint32_t kept = tracker_shutdown_begin(fd, how, caller);
    tracker_shutdown_done(kept, how, shutdown(fd, how) == 0, caller);
}

void linger_ours(int seconds) {
    struct linger linger = {.l_onoff = 1, .l_linger = seconds};
    assert_int_equal(setsockopt(pair.ours, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
}

void close_ours(void) {
    tracker_closing(pair.ours, caller);
    close(pair.ours);
}

void assert_counts(struct counts expected) {
    assert_int_equal(site()->closed_passive, expected.passive);
    assert_int_equal(site()->closed_active, expected.active);
    assert_int_equal(site()->closed_reset, expected.reset);
    assert_int_equal(site()->closed_connecting, expected.connecting);
    assert_int_equal(site()->closed_shared, expected.shared);
}
