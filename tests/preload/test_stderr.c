// Where a report must not go: to a descriptor 2 that is a connection of the program's by now. And
// where it cannot go: a closed one, a pipe that nobody reads. The program does not notice.
#include "base/sys.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void leak(void) {
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    recv(pair.server, &byte, 1, 0);
}

// Not a byte may arrive at the peer of what is fd 2 now: looked at behind the report, in a live
// one, and printed.
static int report_and_look_at(int peer) {
    char bytes[64];
    leak();
    raise(SIGUSR1);
    long n = recv(peer, bytes, sizeof bytes, MSG_DONTWAIT);
    printf("arrived %ld errno %d\n", n, n < 0 ? errno : 0);
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static int closed(void) {
    leak();
    close(2);
    return 3;
}

static int closed_from_the_start(void) {
    close(2);
    leak();
    return 3;
}

static int reused_by_tcp(void) {
    struct rig_tcp pair = rig_tcp_pair();
    close(2);
    dup(pair.server); // takes number 2
    return report_and_look_at(pair.client);
}

static int reused_by_socketpair(void) {
    int pair[2];
    close(2);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair); // pair[0] is 2
    return pair[0] == 2 ? report_and_look_at(pair[1]) : 1;
}

static int tcp_by_dup2(void) {
    struct rig_tcp pair = rig_tcp_pair();
    dup2(pair.server, 2);
    return report_and_look_at(pair.client);
}

static int tcp_by_raw_dup3(void) {
    struct rig_tcp pair = rig_tcp_pair();
    syscall(SYS_dup3, pair.server, 2, 0);
    return report_and_look_at(pair.client);
}

// As a server hands its client's connection to a CGI-like handler.
static int unix_by_dup2(void) {
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    dup2(pair[0], 2);
    return report_and_look_at(pair[1]);
}

static int file_by_close_and_open(void) { // a database in stderr's place
    close(2);
    int fd = (int)sys_call(SYS_memfd_create, (long)"database", 0, 0, 0, 0, 0);
    leak();
    raise(SIGUSR1);
    printf("fd %d, bytes %ld\n", fd, (long)lseek(fd, 0, SEEK_END));
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static int file_by_dup2(void) { // a log, put there on purpose
    int fd = (int)sys_call(SYS_memfd_create, (long)"log", 0, 0, 0, 0, 0);
    dup2(fd, 2);
    leak();
    raise(SIGUSR1);
    char text[512] = "";
    sys_call(SYS_pread64, fd, (long)text, sizeof text - 1, 0, 0, 0);
    printf("reported %d\n", strstr(text, " sockleak: ") != NULL);
    fflush(stdout);
    sys_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    return 1;
}

static int broken_pipe(void) {
    int ends[2];
    if (pipe(ends) != 0)
        return 1;
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    leak();
    return 3; // and no SIGPIPE
}

static int full_pipe(void) {
    int ends[2];
    char page[4096] = {0};
    if (pipe2(ends, O_NONBLOCK) != 0)
        return 1;
    while (write(ends[1], page, sizeof page) > 0)
        ;
    fcntl(ends[1], F_SETFL, 0);
    dup2(ends[1], 2);
    leak();
    return 3; // after the patience of 2 s, and not never
}

static const struct rig_scenario scenarios[] = {
    {"closed", closed},
    {"closed_from_the_start", closed_from_the_start},
    {"broken_pipe", broken_pipe},
    {"full_pipe", full_pipe},
    {"reused_by_tcp", reused_by_tcp},
    {"reused_by_socketpair", reused_by_socketpair},
    {"tcp_by_dup2", tcp_by_dup2},
    {"tcp_by_raw_dup3", tcp_by_raw_dup3},
    {"unix_by_dup2", unix_by_dup2},
    {"file_by_close_and_open", file_by_close_and_open},
    {"file_by_dup2", file_by_dup2},
};

enum {
    COUNT = sizeof scenarios / sizeof *scenarios,
    SILENT = 4,
    SOCKETS = 9
};

static void as_bare_without_a_place_to_report(void **state) {
    rig_assert_same_as_bare(*state, NULL, NULL);
}

static void not_a_byte_on_the_programs_socket(void **state) {
    struct rig_result result;
    rig_run(&result, *state, PRELOADED, "grace_ms=0");
    assert_string_equal(result.out, "arrived -1 errno 11\n"); // EAGAIN
    assert_int_equal(result.status, 3 << 8);
}

static void not_a_byte_in_a_file_that_came_by_chance(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "file_by_close_and_open", PRELOADED, "grace_ms=0");
    assert_string_equal(result.out, "fd 2, bytes 0\n");
}

static void a_stderr_put_there_on_purpose_gets_the_report(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "file_by_dup2", PRELOADED, "grace_ms=0");
    assert_string_equal(result.out, "reported 1\n");
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, COUNT);
    struct CMUnitTest tests[COUNT] = {
        [SOCKETS] = cmocka_unit_test(not_a_byte_in_a_file_that_came_by_chance),
        [SOCKETS + 1] = cmocka_unit_test(a_stderr_put_there_on_purpose_gets_the_report),
    };
    for (int i = 0; i < SOCKETS; i++)
        tests[i] = (struct CMUnitTest){scenarios[i].name,
                                       i < SILENT ? as_bare_without_a_place_to_report
                                                  : not_a_byte_on_the_programs_socket,
                                       NULL, NULL, (void *)(uintptr_t)scenarios[i].name};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
