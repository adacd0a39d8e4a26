#include "rig.h"
#include "../scratch.h"
#include "base/sys.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char library[PATH_MAX];

const char *rig_library(void) {
    return library;
}

static void find_library(void) {
    const char *given = getenv("SOCKLEAK_LIBRARY");
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 32);
    for (int up = 0; up < 3 && len > 0; up++) // BUILD/tests/preload/test_x
        while (len > 0 && path[--len] != '/')
            ;
    snprintf(path + (len > 0 ? len : 0), 32, "/libsockleak.so");
    if (!realpath(given ? given : path, library)) {
        printf("skipped: no library at %s\n", given ? given : path);
        exit(RIG_SKIPPED);
    }
}

void rig_start(int argc, char **argv, const struct rig_scenario *scenarios, size_t count) {
    find_library();
    if (argc > 2 && strcmp(argv[1], "--scenario") == 0) {
        alarm(RIG_DEADLINE_S);
        for (size_t i = 0; i < count; i++)
            if (strcmp(scenarios[i].name, argv[2]) == 0)
                exit(scenarios[i].run());
        fprintf(stderr, "no scenario is named %s\n", argv[2]);
        exit(2);
    }
    const char *preloaded = getenv("LD_PRELOAD");
    if (preloaded && strcmp(preloaded, library) == 0)
        return;
    setenv("LD_PRELOAD", library, 1);
    execv("/proc/self/exe", argv);
    perror("cannot run itself");
    exit(1);
}

// --- processes ----------------------------------------------------------------------------------

static int capture_file(const char *name) {
    int fd = (int)sys_call(SYS_memfd_create, (long)name, MFD_CLOEXEC, 0, 0, 0, 0);
    assert_true(fd >= 0);
    return fd;
}

static void read_capture(int fd, char *out) {
    long n = sys_call(SYS_pread64, fd, (long)out, RIG_CAPTURE_BYTES - 1, 0, 0, 0);
    out[n > 0 ? n : 0] = '\0';
    sys_close(fd);
}

static void become(char *const *argv, enum rig_mode mode, const char *options, int out, int err) {
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(out, 1);
    dup2(err, 2);
    sys_call(SYS_close_range, 3, ~0u, 0, 0, 0, 0);
    if (mode == PRELOADED)
        setenv("LD_PRELOAD", library, 1);
    else
        unsetenv("LD_PRELOAD");
    if (options)
        setenv("SOCKLEAK_OPTIONS", options, 1);
    else
        unsetenv("SOCKLEAK_OPTIONS");
    execvp(argv[0], argv);
    sys_call(SYS_exit_group, 127, 0, 0, 0, 0, 0);
}

struct rig_result *rig_command(struct rig_result *result, char *const *argv, enum rig_mode mode,
                               const char *options) {
    int out = capture_file("out"), err = capture_file("err");
    result->pid = fork();
    if (result->pid == 0)
        become(argv, mode, options, out, err);
    assert_true(result->pid > 0);
    assert_int_equal(waitpid(result->pid, &result->status, 0), result->pid);
    read_capture(out, result->out);
    read_capture(err, result->err);
    return result;
}

struct rig_result *rig_run(struct rig_result *out, const char *scenario, enum rig_mode mode,
                           const char *options) {
    char self[PATH_MAX] = "";
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    char *argv[] = {self, (char *)"--scenario", (char *)(uintptr_t)scenario, NULL};
    return rig_command(out, argv, mode, options);
}

// --- files --------------------------------------------------------------------------------------

void rig_empty_directory(void) {
    scratch_empty();
}

const char *rig_directory(void) {
    const char *path = scratch_make();
    assert_non_null(path);
    return path;
}

const char *rig_ledger_options(const char *more) {
    static char options[256];
    snprintf(options, sizeof options, "ledger_dir=%s%s%s", rig_directory(), more ? ":" : "",
             more ? more : "");
    return options;
}

// --- beside the bare program --------------------------------------------------------------------

// The first line that is not the same.
static void show_difference(const char *scenario, const char *bare, const char *with) {
    size_t line = 0;
    for (size_t i = 0; bare[i] && bare[i] == with[i]; i++)
        line = bare[i] == '\n' ? i + 1 : line;
    print_error("%s:\n  bare      %.*s\n  preloaded %.*s\n", scenario,
                (int)strcspn(bare + line, "\n"), bare + line, (int)strcspn(with + line, "\n"),
                with + line);
}

void rig_assert_same_as_bare(const char *scenario, const char *options,
                             struct rig_result *preloaded) {
    static struct rig_result bare, own;
    struct rig_result *with = preloaded ? preloaded : &own;
    rig_run(&bare, scenario, BARE, NULL);
    rig_run(with, scenario, PRELOADED, options);
    if (strcmp(bare.out, with->out) != 0)
        show_difference(scenario, bare.out, with->out);
    if (bare.status != with->status)
        print_error("%s: status %#x bare, %#x preloaded; stderr: %s\n", scenario,
                    (unsigned)bare.status, (unsigned)with->status, with->err);
    assert_int_equal(strcmp(bare.out, with->out), 0);
    assert_int_equal(bare.status, with->status);
}

void rig_assert_same_as_bare_or_skip(const char *scenario, const char *options,
                                     struct rig_result *preloaded) {
    rig_run(preloaded, scenario, BARE, NULL);
    if (preloaded->status == RIG_SKIPPED << 8)
        skip();
    rig_assert_same_as_bare(scenario, options, preloaded);
}

void rig_assert_said(const struct rig_result *result, const char *words) {
    if (!strstr(result->err, words))
        print_error("'%s' is not in:\n%s\n", words, result->err);
    assert_non_null(strstr(result->err, words));
}

unsigned rig_count(const char *haystack, const char *needle) {
    unsigned count = 0;
    for (const char *at = haystack; (at = strstr(at, needle)) != NULL; at += strlen(needle))
        count++;
    return count;
}

unsigned rig_reports(const char *err) {
    return rig_count(err, "== summary: ");
}

// --- sockets ------------------------------------------------------------------------------------

static struct sockaddr_in loopback(int listener) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    if (listener >= 0)
        assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    return address;
}

int rig_listen(void) {
    struct sockaddr_in address = loopback(-1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, SOMAXCONN), 0);
    return fd;
}

int rig_quiet_connect(int listener) {
    struct sockaddr_in address = loopback(listener);
    long fd = sys_call(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0);
    assert_true(fd >= 0);
    assert_int_equal(sys_call(SYS_connect, fd, (long)&address, sizeof address, 0, 0, 0), 0);
    return (int)fd;
}

struct rig_tcp rig_tcp_pair(void) {
    int listener = rig_listen();
    struct rig_tcp pair;
    pair.client = rig_quiet_connect(listener);
    pair.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(pair.server >= 0);
    close(listener);
    return pair;
}

int rig_state(int fd) {
    struct tcp_info info;
    socklen_t bytes = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0 ? info.tcpi_state : -1;
}

uint64_t rig_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void rig_wait_state(int fd, int state, unsigned age_ms) {
    uint64_t seen_ms = 0, start_ms = rig_now_ms();
    for (;;) {
        struct tcp_info info = {0};
        socklen_t bytes = sizeof info;
        assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes), 0);
        if (info.tcpi_state == state) {
            seen_ms = seen_ms ? seen_ms : rig_now_ms();
            if ((state == TCP_CLOSE_WAIT ? info.tcpi_last_ack_recv : rig_now_ms() - seen_ms) >=
                age_ms)
                return;
        }
        assert_true(rig_now_ms() - start_ms < RIG_DEADLINE_S * 1000);
        sys_sleep_ms(1);
    }
}

void rig_peer_closes(struct rig_tcp pair) {
    sys_close(pair.client);
    rig_wait_state(pair.server, TCP_CLOSE_WAIT, 0);
}

void rig_close_quietly(struct rig_tcp pair) {
    sys_close(pair.server);
    sys_close(pair.client);
}

void rig_wait_asleep(pid_t tid) {
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/%d/syscall", tid);
    // The last thing before it sleeps is the entry to the call, so once is not enough: it must be
    // in a call whose number is no futex, two looks in a row.
    for (int seen = 0; seen < 3; sys_sleep_ms(1)) {
        int fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        assert_true(fd >= 0);
        long n = sys_read(fd, text, sizeof text - 1);
        sys_close(fd);
        text[n > 0 ? n : 0] = '\0';
        seen = n > 0 && strncmp(text, "running", 7) != 0 && atoi(text) != SYS_futex ? seen + 1 : 0;
    }
}
