// base/process: what /proc tells about this process.
#include "base/process.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void a_file_is_read_up_to_the_buffers_end(void **state) {
    (void)state;
    char path[128], out[64];
    snprintf(path, sizeof path, "%s/file", scratch_directory());
    write_file(path, "0123456789", 10);
    memset(out, 'X', sizeof out);
    assert_int_equal(process_read_file(path, out, sizeof out), 10);
    assert_memory_equal(out, "0123456789X", 11);
    memset(out, 'X', sizeof out);
    assert_int_equal(process_read_file(path, out, 4), 4);
    assert_memory_equal(out, "0123X", 5);
}

static void errors_are_negative_errno_and_errno_is_left_alone(void **state) {
    (void)state;
    char out[16];
    errno = EXDEV;
    assert_int_equal(process_read_file("/nonexistent/file", out, sizeof out), -ENOENT);
    assert_int_equal(process_read_file("/tmp", out, sizeof out), -EISDIR);
    assert_int_equal(errno, EXDEV);
}

// The judge: the age of /proc/self, which the kernel gives as uptime less field 22 (proc(5)).
static void the_start_time_is_this_processs(void **state) {
    (void)state;
    uint64_t ticks = process_start_time_ticks();
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t now_ticks = (uint64_t)now.tv_sec * (uint64_t)sysconf(_SC_CLK_TCK);
    assert_true(ticks > 0 && ticks <= now_ticks + (uint64_t)sysconf(_SC_CLK_TCK));
    char command[128], line[64] = "";
    // ps knows field 22 as lstart only to the second; awk counts fields of a tame command name.
    snprintf(command, sizeof command, "awk '{print $22}' /proc/%d/stat", getpid());
    FILE *awk = popen(command, "r");
    assert_non_null(fgets(line, sizeof line, awk));
    pclose(awk);
    assert_int_equal(ticks, strtoull(line, NULL, 10));
}

static void the_start_time_survives_a_hostile_command_name(void **state) {
    (void)state;
    uint64_t ticks = process_start_time_ticks();
    prctl(PR_SET_NAME, ") R 1 (2) 3 4");
    assert_int_equal(process_start_time_ticks(), ticks);
    prctl(PR_SET_NAME, "\n\n) ) ) )");
    assert_int_equal(process_start_time_ticks(), ticks);
    prctl(PR_SET_NAME, "test_process");
}

static void the_executable_is_the_one_that_proc_links_to(void **state) {
    (void)state;
    char expected[4096] = "", exe[4096];
    assert_true(readlink("/proc/self/exe", expected, sizeof expected - 1) > 0);
    process_exe(exe, sizeof exe);
    assert_string_equal(exe, expected);
    process_exe(exe, 5);
    assert_int_equal(strlen(exe), 4); // cut, and terminated
}

static void *tell_tid(void *out) {
    *(long *)out = syscall(SYS_gettid);
    return NULL;
}

static void a_thread_is_there_until_it_is_joined(void **state) {
    (void)state;
    assert_true(process_has_thread((uint32_t)syscall(SYS_gettid)));
    assert_false(process_has_thread(1)); // a thread, but not of this process
    pthread_t thread;
    long tid;
    assert_int_equal(pthread_create(&thread, NULL, tell_tid, &tid), 0);
    pthread_join(thread, NULL);
    int there = 1;
    for (int ms = 0; ms < 1000 && there; ms++) { // joined: the kernel may still be at it
        there = process_has_thread((uint32_t)tid);
        usleep(1000);
    }
    assert_false(there);
}

static void *wait_to_end(void *arg) {
    const int *pipes = arg;
    long tid = syscall(SYS_gettid);
    char byte;
    assert_int_equal(write(pipes[1], &tid, sizeof tid), sizeof tid);
    assert_int_equal(read(pipes[2], &byte, 1), 1);
    return NULL;
}

// One whose tracer does not ask for it stays with the kernel for as long as one looks.
ISOLATED(a_thread_that_was_joined_does_not_run_though_the_kernel_still_has_it) {
    int pipes[4];
    long tid;
    char is_traced = 0;
    pthread_t thread;
    assert_int_equal(pipe(pipes) | pipe(pipes + 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_to_end, pipes), 0);
    assert_int_equal(read(pipes[0], &tid, sizeof tid), sizeof tid);
    assert_true(process_thread_runs((uint32_t)tid));
    int begin[2];
    assert_int_equal(pipe(begin), 0);
    pid_t tracer = fork();
    if (tracer == 0) {
        is_traced = read(begin[0], &is_traced, 1) == 1 && ptrace(PTRACE_SEIZE, tid, 0, 0) == 0;
        _exit(write(pipes[1], &is_traced, 1) == 1 ? pause() : 1);
    }
    prctl(PR_SET_PTRACER, tracer);
    assert_int_equal(write(begin[1], "x", 1), 1);
    assert_int_equal(read(pipes[0], &is_traced, 1), 1);
    assert_int_equal(write(pipes[3], "x", 1), 1);
    pthread_join(thread, NULL);
    bool exists = process_has_thread((uint32_t)tid), runs = process_thread_runs((uint32_t)tid);
    kill(tracer, SIGKILL);
    if (!is_traced)
        isolated_skip("no thread may be traced here");
    assert_true(exists);
    assert_false(runs);
}

ISOLATED(without_proc_nothing_is_known) {
    own_mounts();
    if (mount("none", "/proc", "tmpfs", 0, NULL) != 0)
        isolated_skip("/proc cannot be covered: not permitted here");
    char exe[64] = "X";
    process_exe(exe, sizeof exe);
    assert_string_equal(exe, "");
    assert_int_equal(process_start_time_ticks(), 0);
    assert_true(process_has_thread((uint32_t)syscall(SYS_gettid))); // needs no /proc
    assert_true(process_thread_runs((uint32_t)syscall(SYS_gettid)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read_up_to_the_buffers_end),
        cmocka_unit_test(errors_are_negative_errno_and_errno_is_left_alone),
        cmocka_unit_test(the_start_time_is_this_processs),
        cmocka_unit_test(the_start_time_survives_a_hostile_command_name),
        cmocka_unit_test(the_executable_is_the_one_that_proc_links_to),
        cmocka_unit_test(a_thread_is_there_until_it_is_joined),
        cmocka_unit_test(a_thread_that_was_joined_does_not_run_though_the_kernel_still_has_it),
        cmocka_unit_test(without_proc_nothing_is_known),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
