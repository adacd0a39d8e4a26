// The grace rules (libsockleak(7)), both sides of each, at an end of the process and in a live
// report. The kernel's state is waited for, so what is judged is what is really there.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PAST_EXIT_GRACE_MS = 150, // exit_grace_ms is 100
    PAST_LIVE_GRACE_MS = 1100 // grace_ms is 1000
};

static char byte;

static int fin(void) {
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    return pair.server;
}

static int end_now(void) {
    return 0;
}

// --- what the scenarios leave open --------------------------------------------------------------

static int eof_by_this_thread(void) {
    recv(fin(), &byte, 1, 0);
    return end_now();
}

static void *read_end(void *fd) {
    recv(*(int *)fd, &byte, 1, 0);
    return NULL;
}

static int eof_by_a_thread_that_is_gone(void) {
    int fd = fin();
    pthread_t thread;
    pthread_create(&thread, NULL, read_end, &fd);
    pthread_join(thread, NULL);
    return end_now();
}

static int told;

static void *read_end_and_stay(void *fd) {
    recv(*(int *)fd, &byte, 1, 0);
    __atomic_store_n(&told, 1, __ATOMIC_RELEASE);
    for (;;)
        pause();
    return NULL;
}

static void start_reader_that_stays(int *fd) {
    pthread_t thread;
    pthread_create(&thread, NULL, read_end_and_stay, fd);
    while (!__atomic_load_n(&told, __ATOMIC_ACQUIRE))
        sys_sleep_ms(1);
}

static int eof_by_a_living_thread(void) {
    int fd = fin();
    start_reader_that_stays(&fd);
    return end_now();
}

static int eof_by_a_living_thread_long_ago(void) {
    int fd = fin();
    start_reader_that_stays(&fd);
    sys_sleep_ms(PAST_EXIT_GRACE_MS); // the age of the telling is what counts: nothing to poll
    return end_now();
}

static int fin_unread(void) {
    fin();
    return end_now();
}

static int fin_unread_long_ago(void) {
    rig_wait_state(fin(), TCP_CLOSE_WAIT, PAST_EXIT_GRACE_MS);
    return end_now();
}

static int data_unread(void) {
    struct rig_tcp pair = rig_tcp_pair();
    send(pair.client, "data", 4, 0);
    rig_peer_closes(pair);
    return end_now();
}

static int data_unread_long_ago(void) {
    struct rig_tcp pair = rig_tcp_pair();
    send(pair.client, "data", 4, 0);
    rig_peer_closes(pair);
    rig_wait_state(pair.server, TCP_CLOSE_WAIT, PAST_EXIT_GRACE_MS);
    return end_now();
}

static int reset(void) {
    struct rig_tcp pair = rig_tcp_pair();
    struct linger at_once = {1, 0};
    setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    sys_close(pair.client);
    rig_wait_state(pair.server, TCP_CLOSE, 0);
    return pair.server;
}

static int reset_told(void) {
    recv(reset(), &byte, 1, 0);
    return end_now();
}

static int reset_told_long_ago(void) {
    int fd = reset();
    recv(fd, &byte, 1, 0);
    rig_wait_state(fd, TCP_CLOSE, PAST_EXIT_GRACE_MS);
    return end_now();
}

static int reset_untold_long_ago(void) {
    rig_wait_state(reset(), TCP_CLOSE, PAST_EXIT_GRACE_MS);
    return end_now();
}

static int shut_down(void) {
    struct rig_tcp pair = rig_tcp_pair();
    shutdown(pair.server, SHUT_WR);
    sys_close(pair.client);
    rig_wait_state(pair.server, TCP_CLOSE, 0);
    return pair.server;
}

static int shutdown_unclosed(void) {
    shut_down();
    return end_now();
}

static int shutdown_unclosed_long_ago(void) {
    rig_wait_state(shut_down(), TCP_CLOSE, PAST_EXIT_GRACE_MS);
    return end_now();
}

static int healthy(void) {
    struct rig_tcp half_closed = rig_tcp_pair();
    if (fork() == 0) { // the peer, which has not closed: another process, or it would leak here
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    sys_close(half_closed.client);
    shutdown(half_closed.server, SHUT_WR);
    rig_wait_state(half_closed.server, TCP_FIN_WAIT2, PAST_EXIT_GRACE_MS);
    rig_tcp_pair();
    rig_listen();
    socket(AF_INET, SOCK_STREAM, 0);
    socket(AF_INET, SOCK_DGRAM, 0);
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    sys_close(pair[1]);
    recv(pair[0], &byte, 1, 0); // AF_UNIX: with families=unix only
    return end_now();
}

static int eof_at_a_signal(void) {
    recv(fin(), &byte, 1, 0);
    raise(SIGTERM); // perhaps before the close that was to follow: as a living thread's
    return 1;
}

static int live(int fd, unsigned age_ms) {
    rig_wait_state(fd, TCP_CLOSE_WAIT, age_ms);
    raise(SIGUSR1);
    sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    return 1;
}

static int live_eof(void) {
    int fd = fin();
    recv(fd, &byte, 1, 0);
    return live(fd, 0);
}

static int live_eof_long_ago(void) {
    int fd = fin();
    recv(fd, &byte, 1, 0);
    return live(fd, PAST_LIVE_GRACE_MS);
}

static int live_unread(void) {
    return live(fin(), PAST_EXIT_GRACE_MS);
}

static int live_unread_long_ago(void) {
    return live(fin(), PAST_LIVE_GRACE_MS);
}

static const struct rig_scenario scenarios[] = {
    {"eof_by_this_thread", eof_by_this_thread},
    {"eof_by_a_thread_that_is_gone", eof_by_a_thread_that_is_gone},
    {"eof_by_a_living_thread", eof_by_a_living_thread},
    {"eof_by_a_living_thread_long_ago", eof_by_a_living_thread_long_ago},
    {"fin_unread", fin_unread},
    {"fin_unread_long_ago", fin_unread_long_ago},
    {"data_unread", data_unread},
    {"data_unread_long_ago", data_unread_long_ago},
    {"reset_told", reset_told},
    {"reset_told_long_ago", reset_told_long_ago},
    {"reset_untold_long_ago", reset_untold_long_ago},
    {"shutdown_unclosed", shutdown_unclosed},
    {"shutdown_unclosed_long_ago", shutdown_unclosed_long_ago},
    {"healthy", healthy},
    {"eof_at_a_signal", eof_at_a_signal},
    {"live_eof", live_eof},
    {"live_eof_long_ago", live_eof_long_ago},
    {"live_unread", live_unread},
    {"live_unread_long_ago", live_unread_long_ago},
};

static const struct claim {
    const char *name, *scenario, *options;
    const char *verdict; // NULL: no leak
} claims[] = {
    {"end: eof read by the thread that ends is due at once", "eof_by_this_thread", NULL,
     "eof-ignored"},
    {"end: and no grace helps it", "eof_by_this_thread", "exit_grace_ms=60000", "eof-ignored"},
    {"end: eof read by a thread that is gone is due at once", "eof_by_a_thread_that_is_gone",
     "exit_grace_ms=60000", "eof-ignored"},
    {"end: eof read by a living thread just now has grace", "eof_by_a_living_thread",
     "exit_grace_ms=60000", NULL},
    {"end: eof read by a living thread without grace is due", "eof_by_a_living_thread",
     "exit_grace_ms=0", "eof-ignored"},
    {"end: eof read by a living thread 150 ms ago is due", "eof_by_a_living_thread_long_ago", NULL,
     "eof-ignored"},
    {"end: a fin just come has grace", "fin_unread", "exit_grace_ms=60000", NULL},
    {"end: a fin without grace is due", "fin_unread", "exit_grace_ms=0", "fin-unread"},
    {"end: a fin of 150 ms ago is due", "fin_unread_long_ago", NULL, "fin-unread"},
    {"end: data just come has grace", "data_unread", "exit_grace_ms=60000", NULL},
    {"end: data without grace is due", "data_unread", "exit_grace_ms=0", "data-unread"},
    {"end: data of 150 ms ago is due", "data_unread_long_ago", NULL, "data-unread"},
    {"end: a reset told just now has grace", "reset_told", "exit_grace_ms=60000", NULL},
    {"end: a reset told without grace is due", "reset_told", "exit_grace_ms=0", "reset-unclosed"},
    {"end: a reset told 150 ms ago is due", "reset_told_long_ago", NULL, "reset-unclosed"},
    {"end: a reset that nobody told may be fresh", "reset_untold_long_ago", NULL, NULL},
    {"end: but not longer than the live grace", "reset_untold_long_ago", "grace_ms=100",
     "reset-unclosed"},
    {"end: both shut down just now has grace", "shutdown_unclosed", "exit_grace_ms=60000", NULL},
    {"end: both shut down without grace is due", "shutdown_unclosed", "exit_grace_ms=0",
     "shutdown-unclosed"},
    {"end: both shut down 150 ms ago is due", "shutdown_unclosed_long_ago", NULL,
     "shutdown-unclosed"},
    {"end: what is healthy is no leak", "healthy", "exit_grace_ms=0:grace_ms=0", NULL},
    {"end: AF_UNIX is asked for by families=unix", "healthy", "families=unix", "eof-ignored"},
    {"signal: eof just read may be closed next", "eof_at_a_signal", "exit_grace_ms=60000", NULL},
    {"signal: eof read without grace is due", "eof_at_a_signal", "exit_grace_ms=0", "eof-ignored"},
    {"live: eof just read has grace", "live_eof", NULL, NULL},
    {"live: eof without grace is due", "live_eof", "grace_ms=0", "eof-ignored"},
    {"live: eof of 1.1 s ago is due", "live_eof_long_ago", NULL, "eof-ignored"},
    {"live: exit_grace_ms is not asked", "live_eof", "exit_grace_ms=0", NULL},
    {"live: a fin of 150 ms ago has grace", "live_unread", NULL, NULL},
    {"live: a fin without grace is due", "live_unread", "grace_ms=0", "fin-unread"},
    {"live: a fin of 1.1 s ago is due", "live_unread_long_ago", NULL, "fin-unread"},
};

static void verdict_is_as_claimed(void **state) {
    const struct claim *claim = *state;
    static struct rig_result result;
    char options[128];
    snprintf(options, sizeof options, "verbosity=1:%s", claim->options ? claim->options : "");
    rig_run(&result, claim->scenario, PRELOADED, options);
    assert_int_equal(rig_reports(result.err), 1);
    if (claim->verdict ? !strstr(result.err, claim->verdict) : !strstr(result.err, " 0 leaked"))
        print_error("%s\n", result.err);
    if (claim->verdict) {
        assert_non_null(strstr(result.err, claim->verdict));
        assert_non_null(strstr(result.err, " 1 leaked"));
    } else {
        assert_non_null(strstr(result.err, " 0 leaked"));
    }
}

int main(int argc, char **argv) {
    enum {
        CLAIMS = sizeof claims / sizeof *claims
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    struct CMUnitTest tests[CLAIMS];
    for (int i = 0; i < CLAIMS; i++)
        tests[i] = (struct CMUnitTest){claims[i].name, verdict_is_as_claimed, NULL, NULL,
                                       (void *)(uintptr_t)&claims[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
