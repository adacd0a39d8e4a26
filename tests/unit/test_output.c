// base/output: where reports go, and what must never happen there.
#include "base/format.h"
#include "base/output.h"
#include "fake_clock.h"
#include "sockets.h"
#include "unit.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct output output;
static char problem[512];
static char path[256];
static int saved_stderr = -1;

static const char *in_scratch(const char *name) {
    snprintf(path, sizeof path, "%s/%s", scratch_directory(), name);
    unlink(path);
    return path;
}

// Puts `fd` in stderr's place; cmocka's messages go there too, so it is put back before asserting.
static void stderr_becomes(int fd) {
    if (saved_stderr < 0)
        saved_stderr = fcntl(2, F_DUPFD_CLOEXEC, 100);
    dup2(fd, 2);
}

static void stderr_is_back(void) {
    dup2(saved_stderr, 2);
}

static int report_to(const char *log_path, const char *text) {
    output_open(&output, log_path, "/usr/sbin/server", problem, sizeof problem);
    output_write(&output, text, strlen(text));
    return output_close(&output);
}

static void assert_holds(const char *file, const char *expected) {
    char text[8192];
    assert_true(read_file(file, text, sizeof text) >= 0);
    assert_string_equal(text, expected);
}

static int lowest_free_fd(void) {
    int fd = dup(0);
    close(fd);
    return fd;
}

// --- the log ------------------------------------------------------------------------------------

ISOLATED(the_log_is_private_and_no_descriptor_stays_open) {
    const char *log = in_scratch("plain");
    umask(0);
    int before = lowest_free_fd();
    assert_int_equal(report_to(log, "line\n"), 0);
    assert_int_equal(lowest_free_fd(), before);
    assert_string_equal(problem, "");
    assert_holds(log, "line\n");
    struct stat status;
    assert_int_equal(stat(log, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
}

ISOLATED(the_pattern_is_filled_in) {
    char pattern[160], expected[160];
    fake_clock_epoch_ns = 1234567890999999999;
    snprintf(pattern, sizeof pattern, "%s/%%n.%%p.%%t.100%%%%.%%q%%", scratch_directory());
    snprintf(expected, sizeof expected, "%s/server.%d.1234567890.100%%.%%q%%", scratch_directory(),
             getpid());
    assert_int_equal(report_to(pattern, "x\n"), 0);
    assert_holds(expected, "x\n");
}

ISOLATED(an_existing_file_is_never_overwritten) {
    const char *log = in_scratch("theirs");
    write_file(log, "precious\n", 9);
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    stderr_becomes(pipes[1]);
    output_remember_stderr();
    report_to(log, "report\n");
    stderr_is_back();
    assert_holds(log, "precious\n");
    char text[64] = "";
    assert_int_equal(read(pipes[0], text, sizeof text - 1), 7); // it went to stderr
    assert_string_equal(text, "report\n");
    assert_non_null(strstr(problem, log));
    assert_non_null(strstr(problem, "exists"));
}

ISOLATED(a_symbolic_link_is_refused) {
    char target[256];
    snprintf(target, sizeof target, "%s", in_scratch("target"));
    const char *log = in_scratch("link");
    assert_int_equal(symlink(target, log), 0); // dangling: O_CREAT alone would make the target
    report_to(log, "report\n");
    assert_int_equal(access(target, F_OK), -1);
    assert_true(problem[0] != '\0');
    write_file(target, "precious\n", 9);
    report_to(log, "report\n");
    assert_holds(target, "precious\n");
}

ISOLATED(the_own_log_is_appended_to) {
    const char *log = in_scratch("own");
    assert_int_equal(report_to(log, "first\n"), 0);
    assert_int_equal(report_to(log, "second\n"), 0);
    assert_string_equal(problem, "");
    assert_holds(log, "first\nsecond\n");
}

ISOLATED(a_file_that_took_the_own_logs_place_is_left_alone) {
    const char *log = in_scratch("swapped");
    char aside[300];
    snprintf(aside, sizeof aside, "%s.aside", log);
    assert_int_equal(report_to(log, "first\n"), 0);
    assert_int_equal(rename(log, aside), 0); // it keeps its inode
    write_file(log, "theirs\n", 7);
    report_to(log, "second\n");
    assert_holds(log, "theirs\n");
    assert_holds(aside, "first\n");
    assert_non_null(strstr(problem, "exists"));
}

ISOLATED(a_fifo_in_the_logs_place_does_not_hang) {
    const char *log = in_scratch("fifo");
    assert_int_equal(report_to(log, "first\n"), 0);
    unlink(log);
    assert_int_equal(mkfifo(log, 0600), 0); // no reader: a blocking open would wait for ever
    alarm(20);
    report_to(log, "second\n");
    assert_true(problem[0] != '\0');
}

ISOLATED(what_is_wrong_with_the_log_is_said) {
    static const struct {
        const char *log_path, *words;
    } cases[] = {
        {"/nonexistent-directory/log", "no such directory"},
        {"/proc/self/oom_score_adj/log", "/proc/self/oom_score_adj/log"},
        {"/\x1b[31m/log", "/?[31m/log"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        report_to(cases[i].log_path, "");
        assert_non_null(strstr(problem, cases[i].words));
    }
    char long_path[2000];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    report_to(long_path, "");
    assert_true(strlen(problem) < sizeof problem);
}

// --- stderr -------------------------------------------------------------------------------------

static off_t bytes_in(int fd) {
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return status.st_size;
}

ISOLATED(stderr_is_written_to_while_it_is_the_same_file) {
    int file = open(in_scratch("stderr"), O_RDWR | O_CREAT, 0600);
    stderr_becomes(file);
    output_remember_stderr();
    int result = report_to("", "report\n");
    stderr_is_back();
    assert_int_equal(result, 0);
    assert_int_equal(bytes_in(file), 7);
}

ISOLATED(another_file_at_descriptor_2_gets_nothing) {
    output_remember_stderr();
    int database = open(in_scratch("database"), O_RDWR | O_CREAT, 0600);
    stderr_becomes(database);
    int result = report_to("", "report\n");
    stderr_is_back();
    assert_int_equal(bytes_in(database), 0);
    assert_true(result < 0); // and it is told that something was lost
}

ISOLATED(a_closed_stderr_gets_nothing_even_if_it_was_closed_from_the_start) {
    saved_stderr = fcntl(2, F_DUPFD_CLOEXEC, 100);
    close(2);
    output_remember_stderr();
    int closed = report_to("", "report\n");
    int database = open(in_scratch("database2"), O_RDWR | O_CREAT, 0600); // takes number 2
    int reused = report_to("", "report\n");
    off_t bytes = bytes_in(2);
    stderr_is_back();
    assert_int_equal(database, 2);
    assert_int_equal(bytes, 0);
    assert_true(closed < 0 && reused < 0);
}

static void no_byte_goes_to_a_connection(int family) {
    struct tcp_pair pair = tcp_pair(family);
    stderr_becomes(pair.ours);
    output_remember_stderr(); // inetd: it was there from the start
    report_to("", "report\n");
    stderr_is_back();
    char text[16];
    assert_int_equal(recv(pair.peers, text, sizeof text, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

ISOLATED(a_tcp_connection_at_descriptor_2_gets_nothing) {
    no_byte_goes_to_a_connection(AF_INET);
    no_byte_goes_to_a_connection(AF_INET6);
}

ISOLATED(a_service_managers_unix_socket_at_descriptor_2_is_stderr) {
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    stderr_becomes(ends[0]);
    output_remember_stderr();
    report_to("", "report\n");
    stderr_is_back();
    char text[16] = "";
    assert_int_equal(recv(ends[1], text, sizeof text - 1, MSG_DONTWAIT), 7);
}

// --- a bad reader -------------------------------------------------------------------------------

static volatile sig_atomic_t signals_seen;

static void on_signal(int signal) {
    (void)signal;
    signals_seen++;
}

static void assert_no_signal_is_left(int signal) {
    sigset_t pending, mask;
    sigpending(&pending);
    assert_false(sigismember(&pending, signal));
    sigprocmask(SIG_BLOCK, NULL, &mask);
    assert_false(sigismember(&mask, signal)); // the mask is the program's again
    assert_int_equal(signals_seen, 0);
}

ISOLATED(a_broken_pipe_leaves_no_sigpipe_behind) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    close(pipes[0]);
    signal(SIGPIPE, on_signal);
    stderr_becomes(pipes[1]);
    output_remember_stderr();
    int result = report_to("", "report\n");
    stderr_is_back();
    assert_true(result < 0);
    assert_no_signal_is_left(SIGPIPE);
}

ISOLATED(a_sigpipe_that_the_program_had_pending_stays_pending) {
    int pipes[2];
    sigset_t set;
    assert_int_equal(pipe(pipes), 0);
    close(pipes[0]);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGPIPE);
    stderr_becomes(pipes[1]);
    output_remember_stderr();
    report_to("", "report\n");
    stderr_is_back();
    sigset_t pending;
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGPIPE));
}

ISOLATED(a_file_size_limit_raises_no_sigxfsz) {
    const char *log = in_scratch("limited");
    struct rlimit limit = {4, 4};
    signal(SIGXFSZ, on_signal);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_true(report_to(log, "longer than four bytes\n") < 0);
    assert_no_signal_is_left(SIGXFSZ);
    assert_holds(log, "long");
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

ISOLATED(a_full_pipe_without_a_reader_is_given_up_after_2_seconds) {
    int pipes[2];
    char block[4096] = "";
    assert_int_equal(pipe(pipes), 0);
    fcntl(pipes[1], F_SETFL, O_NONBLOCK);
    while (write(pipes[1], block, sizeof block) > 0)
        ;
    fcntl(pipes[1], F_SETFL, 0);
    alarm(30);
    stderr_becomes(pipes[1]);
    output_remember_stderr();
    double begun = seconds();
    output_open(&output, "", "server", problem, sizeof problem);
    for (int i = 0; i < 10; i++) // several buffers full: 2 seconds for all of it, not for each
        output_write(&output, block, sizeof block);
    int result = output_close(&output);
    double took = seconds() - begun;
    stderr_is_back();
    assert_true(result < 0);
    assert_true(took > 1.5 && took < 3.0);
}

ISOLATED(a_report_larger_than_the_buffer_arrives_whole) {
    const char *log = in_scratch("large");
    char line[64], text[32000] = "", expected[32000] = "";
    output_open(&output, log, "server", problem, sizeof problem);
    for (int i = 0; i < 500; i++) {
        int len = snprintf(line, sizeof line, "line %d of a long report\n", i);
        output_write(&output, line, (size_t)len);
        strcat(expected, line);
    }
    assert_int_equal(output_close(&output), 0);
    read_file(log, text, sizeof text);
    assert_string_equal(text, expected);
}

static sem_t notified;
static int listener;

// Answers each ppoll of the other thread: one descriptor is ready.
static void *say_writable(void *unused) {
    sem_wait(&notified);
    for (;;) {
        struct seccomp_notif asked = {0};
        struct seccomp_notif_resp answer = {.val = 1};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0)
            return unused;
        answer.id = asked.id;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static void poll_always_says_writable(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ppoll, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    pthread_t thread;
    sem_init(&notified, 0, 0);
    pthread_create(&thread, NULL, say_writable, NULL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                            &program);
    if (listener < 0)
        isolated_skip("no system call can be answered here");
    sem_post(&notified);
}

// What happens where a pipe has other writers, and they are quicker than we: poll said writable,
// and it is full.
static void reports_to_a_pipe_that_was_filled(void) {
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
    while (write(pipes[1], "x", 1) == 1)
        ;
    fcntl(pipes[1], F_SETFL, 0);
    stderr_becomes(pipes[1]);
    output_remember_stderr();
    poll_always_says_writable();
    _exit(report_to("", "report\n") == -EIO ? 0 : 1);
}

// A write that waits has all signals blocked, so only SIGKILL would end the program.
static void a_write_that_would_wait_cannot_hang_the_program(void **state) {
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        reports_to_a_pipe_that_was_filled();
    int status = -1;
    for (int ms = 0; ms < 5000 && waitpid(pid, &status, WNOHANG) == 0; ms += 10)
        usleep(10000);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_log_is_private_and_no_descriptor_stays_open),
        cmocka_unit_test(the_pattern_is_filled_in),
        cmocka_unit_test(an_existing_file_is_never_overwritten),
        cmocka_unit_test(a_symbolic_link_is_refused),
        cmocka_unit_test(the_own_log_is_appended_to),
        cmocka_unit_test(a_file_that_took_the_own_logs_place_is_left_alone),
        cmocka_unit_test(a_fifo_in_the_logs_place_does_not_hang),
        cmocka_unit_test(what_is_wrong_with_the_log_is_said),
        cmocka_unit_test(stderr_is_written_to_while_it_is_the_same_file),
        cmocka_unit_test(another_file_at_descriptor_2_gets_nothing),
        cmocka_unit_test(a_closed_stderr_gets_nothing_even_if_it_was_closed_from_the_start),
        cmocka_unit_test(a_tcp_connection_at_descriptor_2_gets_nothing),
        cmocka_unit_test(a_service_managers_unix_socket_at_descriptor_2_is_stderr),
        cmocka_unit_test(a_broken_pipe_leaves_no_sigpipe_behind),
        cmocka_unit_test(a_sigpipe_that_the_program_had_pending_stays_pending),
        cmocka_unit_test(a_file_size_limit_raises_no_sigxfsz),
        cmocka_unit_test(a_full_pipe_without_a_reader_is_given_up_after_2_seconds),
        cmocka_unit_test(a_report_larger_than_the_buffer_arrives_whole),
        cmocka_unit_test(a_write_that_would_wait_cannot_hang_the_program),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("output", tests, NULL, NULL);
}
