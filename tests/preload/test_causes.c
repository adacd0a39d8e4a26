// The evidence for a cause: what the thread is doing that used a leaked socket last, also where the
// report's own signal interrupted it; and what the socket's properties are. The kernel is asked
// beside the library, by what the test itself has set up.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    GRACE_MS = 150
};
#define GRACE_OPTION "grace_ms=150"

static char byte;
static int leaked = -1, waited_on = -1;
static pid_t waiter;

static int in_close_wait(void) {
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    return pair.server;
}

static void read_to_the_end(void) {
    leaked = in_close_wait();
    recv(leaked, &byte, 1, 0);
}

// --- the scenarios: one thread waits, another asks for the report --------------------------------

// Signals the thread that waits, until a report has seen the leak; prints what it found, and ends.
static void *asks(void *to_process) {
    rig_wait_asleep(waiter);
    rig_wait_state(leaked, TCP_CLOSE_WAIT, GRACE_MS + 50);
    if (waited_on >= 0) // silent for as long
        sys_sleep_ms(GRACE_MS + 50);
    const struct ledger_snapshot *snapshot = &view_record(leaked)->snapshot;
    uint64_t start = rig_now_ms();
    sys_call(SYS_tgkill, sys_getpid(), to_process ? sys_gettid() : waiter, SIGUSR1, 0, 0, 0);
    while (snapshot->cause == CAUSE_UNKNOWN && rig_now_ms() - start < 3000)
        sys_sleep_ms(1);
    printf("cause %d thread %d call %d fd %d record %d\n", snapshot->cause,
           snapshot->thread == (uint32_t)waiter, snapshot->thread_call,
           snapshot->thread_fd == waited_on && waited_on >= 0,
           waited_on >= 0 && snapshot->thread_fd_record == view_number(waited_on));
    fflush(stdout);
    _exit(0);
}

// The report is made by the thread that waits (its signal interrupts it), or by the other one.
static void another_asks(bool elsewhere) {
    pthread_t thread;
    waiter = sys_gettid();
    pthread_create(&thread, NULL, asks, elsewhere ? &byte : NULL);
}

// Behind a call that fails with EINTR: the other thread ends the process.
static int until_the_end(void) {
    while (waiter)
        pause();
    return 1;
}

static void wait_in_accept(bool elsewhere) {
    read_to_the_end();
    waited_on = rig_listen();
    another_asks(elsewhere);
    accept(waited_on, NULL, NULL);
}

static int in_accept(void) {
    wait_in_accept(false);
    return 1;
}

static int in_accept_seen_from_elsewhere(void) {
    wait_in_accept(true);
    return 1;
}

static void wait_in_recv(bool elsewhere) {
    struct rig_tcp pair = rig_tcp_pair();
    read_to_the_end();
    waited_on = pair.server;
    another_asks(elsewhere);
    recv(waited_on, &byte, 1, 0);
}

static int in_recv(void) {
    wait_in_recv(false);
    return 1;
}

static int in_recv_seen_from_elsewhere(void) {
    wait_in_recv(true);
    return 1;
}

static int in_recv_with_the_fin_unread(void) {
    struct rig_tcp pair = rig_tcp_pair();
    leaked = in_close_wait();
    waited_on = pair.server;
    another_asks(false);
    recv(waited_on, &byte, 1, 0);
    return 1;
}

static int in_poll_of_one(void) {
    struct rig_tcp pair = rig_tcp_pair();
    read_to_the_end();
    waited_on = pair.server;
    another_asks(true);
    struct pollfd one = {.fd = waited_on, .events = POLLIN};
    poll(&one, 1, -1);
    return 1;
}

static int in_epoll(void) {
    read_to_the_end();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event;
    another_asks(false);
    epoll_wait(epoll, &event, 1, -1);
    return until_the_end();
}

static int in_nanosleep(void) {
    read_to_the_end();
    another_asks(false);
    sleep(RIG_DEADLINE_S);
    return until_the_end();
}

// A client's connection: a byte each way, and then the server closes it.
static int an_idle_pool(void) {
    int listener = rig_listen();
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &bytes);
    leaked = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(leaked, (struct sockaddr *)&address, sizeof address) != 0)
        return 1;
    int peer = (int)sys_call(SYS_accept4, listener, 0, 0, 0, 0, 0);
    if (send(leaked, "?", 1, 0) != 1 || sys_read(peer, &byte, 1) != 1 ||
        sys_write(peer, "!", 1) != 1 || recv(leaked, &byte, 1, 0) != 1)
        return 1;
    sys_close(peer);
    another_asks(false);
    sleep(RIG_DEADLINE_S);
    return until_the_end();
}

struct expected {
    const char *scenario;
    enum ledger_cause cause;
    int call; // 0: any of a poll's
    bool fd, record;
    const char *why;
};

static const struct expected expected[] = {
    {"in_accept", CAUSE_FORGOTTEN, SYS_accept, true, true, "it is in accept on fd "},
    {"in_accept_seen_from_elsewhere", CAUSE_FORGOTTEN, SYS_accept, true, true, "it is in accept"},
    {"in_recv", CAUSE_BLOCKED, SYS_recvfrom, true, true, "is stuck in recvfrom on fd "},
    {"in_recv_seen_from_elsewhere", CAUSE_BLOCKED, SYS_recvfrom, true, true,
     ", with no read timeout and no keepalive: "},
    {"in_recv_with_the_fin_unread", CAUSE_BLOCKED, SYS_recvfrom, true, true,
     ", which opened it, is stuck in recvfrom on fd "},
#ifdef SYS_poll
    {"in_poll_of_one", CAUSE_BLOCKED, SYS_poll, true, true, "is stuck in poll on fd "},
#else
    {"in_poll_of_one", CAUSE_BLOCKED, SYS_ppoll, true, true, "is stuck in ppoll on fd "},
#endif
#ifdef SYS_epoll_wait
    {"in_epoll", CAUSE_FORGOTTEN, SYS_epoll_wait, false, false, "it is in epoll_wait"},
#else
    {"in_epoll", CAUSE_FORGOTTEN, SYS_epoll_pwait, false, false, "it is in epoll_pwait"},
#endif
    {"in_nanosleep", CAUSE_FORGOTTEN, SYS_clock_nanosleep, false, false,
     "it is in clock_nanosleep"},
    {"an_idle_pool", CAUSE_IDLE_POOL, SYS_clock_nanosleep, false, false,
     "why: the peer closed it right after its last use"},
};

static void the_thread_and_its_call_make_the_cause(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const struct expected *e = &expected[i];
        struct rig_result result;
        char line[128];
        rig_run(&result, e->scenario, PRELOADED, GRACE_OPTION);
        snprintf(line, sizeof line, "cause %d thread 1 call %d fd %d record %d\n", e->cause,
                 e->call, e->fd, e->record);
        if (strcmp(result.out, line) != 0 || !strstr(result.err, e->why))
            print_error("%s:\n%s%s", e->scenario, result.out, result.err);
        assert_string_equal(result.out, line);
        assert_non_null(strstr(result.err, e->why));
    }
}

// --- properties ---------------------------------------------------------------------------------

static void print_properties(int fd) {
    const struct ledger_snapshot *snapshot = &view_record(fd)->snapshot;
    printf("%x %x\n", snapshot->properties_known, snapshot->properties);
}

static int properties_of_each_kind(void) {
    int fds[6];
    for (int i = 0; i < 6; i++)
        fds[i] = in_close_wait();
    struct timeval limit = {.tv_sec = 5};
    int on = 1, ms = 1000;
    setsockopt(fds[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fds[2], SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fds[3], IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
    fcntl(fds[4], F_SETFL, O_NONBLOCK);
    fcntl(fds[5], F_SETFD, 0);
    struct rig_tcp pair = rig_tcp_pair();
    sys_write(pair.client, "x", 1);
    rig_peer_closes(pair);
    for (int i = 0; i < 6; i++)
        rig_wait_state(fds[i], TCP_CLOSE_WAIT, 20);
    rig_wait_state(pair.server, TCP_CLOSE_WAIT, 20);
    raise(SIGUSR1);
    for (int i = 0; i < 6; i++)
        print_properties(fds[i]);
    print_properties(pair.server);
    return 0;
}

static void properties_are_the_sockets_own(void **state) {
    (void)state;
    enum {
        KNOWN = PROPERTY_NO_READ_TIMEOUT | PROPERTY_NO_KEEPALIVE | PROPERTY_NO_CLOEXEC |
                PROPERTY_BLOCKING_MODE | PROPERTY_UNREAD_DATA,
        PLAIN = PROPERTY_NO_READ_TIMEOUT | PROPERTY_NO_KEEPALIVE | PROPERTY_BLOCKING_MODE
    };
    static const unsigned each[] = {
        PLAIN,
        PLAIN & ~PROPERTY_NO_READ_TIMEOUT,
        PLAIN & ~PROPERTY_NO_KEEPALIVE,
        PLAIN & ~PROPERTY_NO_KEEPALIVE,
        PLAIN & ~(PROPERTY_BLOCKING_MODE | PROPERTY_NO_READ_TIMEOUT),
        PLAIN | PROPERTY_NO_CLOEXEC,
        PLAIN | PROPERTY_UNREAD_DATA,
    };
    char wanted[256];
    size_t len = 0;
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        len += (size_t)snprintf(wanted + len, sizeof wanted - len, "%x %x\n", KNOWN, each[i]);
    struct rig_result result;
    rig_run(&result, "properties_of_each_kind", PRELOADED, "grace_ms=10");
    assert_string_equal(result.out, wanted);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {
        {"in_accept", in_accept},
        {"in_accept_seen_from_elsewhere", in_accept_seen_from_elsewhere},
        {"in_recv", in_recv},
        {"in_recv_seen_from_elsewhere", in_recv_seen_from_elsewhere},
        {"in_recv_with_the_fin_unread", in_recv_with_the_fin_unread},
        {"in_poll_of_one", in_poll_of_one},
        {"in_epoll", in_epoll},
        {"in_nanosleep", in_nanosleep},
        {"an_idle_pool", an_idle_pool},
        {"properties_of_each_kind", properties_of_each_kind},
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_thread_and_its_call_make_the_cause),
        cmocka_unit_test(properties_are_the_sockets_own),
    };
    return cmocka_run_group_tests_name("causes", tests, NULL, NULL);
}
