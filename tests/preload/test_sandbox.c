// A program that puts itself under seccomp(2): from then on no system call is made that it would
// not make bare, so its filter cannot strike us. A filter that was refused changes nothing.
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALLOW(number)                                                                              \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

// Only what these scenarios call themselves.
static struct sock_fprog strict_filter(void) {
    static struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_read),
        ALLOW(SYS_write),
        ALLOW(SYS_close),
        ALLOW(SYS_socket),
        ALLOW(SYS_recvfrom),
        ALLOW(SYS_shutdown),
        ALLOW(SYS_kill),
        ALLOW(SYS_dup3),
        ALLOW(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    return (struct sock_fprog){sizeof filter / sizeof *filter, filter};
}

static int by_prctl(struct sock_fprog *filter) {
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter);
}

static int by_seccomp(struct sock_fprog *filter) {
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter);
}

static int by_prctls_number(struct sock_fprog *filter) {
    return (int)syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0);
}

static void say(const char *line) {
    if (write(1, line, strlen(line)) < 0)
        _exit(99);
}

static pid_t self;

static struct rig_tcp enter_sandbox(int (*install)(struct sock_fprog *)) {
    struct sock_fprog filter = strict_filter();
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    self = getpid();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || install(&filter) != 0)
        exit(RIG_SKIPPED);
    return pair;
}

// Every kind of event, after the filter; an end of stream that is a leak, too.
static int work(int (*install)(struct sock_fprog *)) {
    char byte;
    struct rig_tcp pair = enter_sandbox(install);
    if (recv(pair.server, &byte, 1, 0) == 0)
        say("end of stream\n");
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    dup3(fd, 100, 0);
    shutdown(fd, SHUT_RDWR);
    close(fd);
    say("worked\n");
    _exit(3);
}

static int work_by_prctl(void) {
    return work(by_prctl);
}

static int work_by_seccomp(void) {
    return work(by_seccomp);
}

static int work_by_prctls_number(void) {
    return work(by_prctls_number);
}

static int first_socket_inside(void) {
    struct sock_fprog filter = strict_filter();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (by_prctl(&filter) != 0)
        exit(RIG_SKIPPED);
    close(socket(AF_INET, SOCK_STREAM, 0));
    say("worked\n");
    _exit(4);
}

static int ended_by_a_signal(void) {
    enter_sandbox(by_prctl);
    kill(self, SIGTERM);
    return 1;
}

static int refused(void) {
    close(socket(AF_INET, SOCK_STREAM, 0));
    int results[3] = {prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL), by_seccomp(NULL),
                      prctl(PR_SET_SECCOMP, 4711, NULL)};
    for (int i = 0; i < 3; i++)
        printf("%d\n", results[i]);
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    recv(pair.server, &byte, 1, 0);
    rig_wait_state(pair.server, 8 /* CLOSE_WAIT */, 150);
    fflush(stdout);
    raise(SIGTERM);
    return 1;
}

static int other_prctls(void) {
    char name[16] = "";
    printf("%d %d", prctl(PR_SET_NAME, "a name"), prctl(PR_GET_NAME, name));
    printf(" %s %d\n", name, prctl(PR_GET_SECCOMP));
    errno = 0;
    printf("%d", prctl(-1));
    printf(" %d\n", errno);
    return 0;
}

static const struct rig_scenario scenarios[] = {
    {"prctl", work_by_prctl},
    {"seccomp", work_by_seccomp},
    {"prctl_by_number", work_by_prctls_number},
    {"first_socket_inside", first_socket_inside},
    {"signal", ended_by_a_signal},
    {"refused", refused},
    {"other_prctls", other_prctls},
};

static struct rig_result result;

static void inside_its_sandbox_the_program_works_as_bare_and_we_are_silent(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        rig_assert_same_as_bare(scenarios[i].name, NULL, &result);
        if (result.status == RIG_SKIPPED << 8)
            skip();
        assert_string_equal(result.err, "");
    }
}

static void a_refused_filter_changes_nothing(void **state) {
    (void)state;
    rig_assert_same_as_bare("refused", NULL, &result);
    assert_true(WIFSIGNALED(result.status));
    assert_int_equal(rig_count(result.err, "at SIGTERM in"), 1);
    assert_int_equal(rig_count(result.err, "eof-ignored"), 1);
}

static void other_uses_of_prctl_pass(void **state) {
    (void)state;
    rig_assert_same_as_bare("other_prctls", NULL, NULL);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inside_its_sandbox_the_program_works_as_bare_and_we_are_silent),
        cmocka_unit_test(a_refused_filter_changes_nothing),
        cmocka_unit_test(other_uses_of_prctl_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
