// Every way a process ends: exactly one report, and the exit status that the program has bare.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// A socket in CLOSE_WAIT whose end of stream this thread has read: a leak at any end.
static int leak(void) {
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    return recv(pair.server, &byte, 1, 0) == 0 ? pair.server : -1;
}

static int by_return(void) {
    leak();
    return 11;
}

static int by_exit(void) {
    leak();
    exit(12);
}

static int by__exit(void) {
    leak();
    printf("lost, for _exit flushes nothing");
    _exit(13);
}

static int by__Exit(void) {
    leak();
    _Exit(14);
}

static int by_quick_exit(void) {
    leak();
    quick_exit(15);
}

static int by_exit_group(void) {
    leak();
    syscall(SYS_exit_group, 16);
    return 1;
}

static int by_exit_with_high_bits(void) {
    leak();
    exit(0x1234);
}

static void *exit_here(void *unused) {
    (void)unused;
    leak();
    exit(17);
}

static int by_exit_from_a_thread(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, exit_here, NULL);
    pthread_join(thread, NULL);
    return 1;
}

static pthread_t main_thread;

static void *outlive_main(void *unused) {
    (void)unused;
    pthread_join(main_thread, NULL);
    leak();
    printf("last thread\n");
    return NULL;
}

static int by_last_thread(void) {
    pthread_t thread;
    main_thread = pthread_self();
    pthread_create(&thread, NULL, outlive_main, NULL);
    pthread_exit(NULL);
}

static void handler_1(void) {
    puts("atexit 1");
}

static void handler_2(void) {
    puts("atexit 2");
    exit(19); // undefined by POSIX; glibc goes on with the remaining handlers, and the new status
}

static int by_exit_in_a_handler(void) {
    leak();
    atexit(handler_1);
    atexit(handler_2);
    return 18;
}

static void handler_quick(void) {
    puts("at_quick_exit");
    fflush(stdout);
}

static int by_quick_exit_with_handlers(void) {
    leak();
    atexit(handler_1); // must not run
    if (at_quick_exit(handler_quick) != 0)
        abort();
    quick_exit(20);
}

static void handler__exit(void) {
    puts("atexit, then _exit");
    fflush(stdout);
    _exit(21);
}

static int by__exit_in_a_handler(void) {
    leak();
    atexit(handler__exit);
    return 1;
}

static int by_abort(void) {
    leak();
    abort();
}

static int by_unflushed_output(void) {
    leak();
    printf("written by exit, when it flushes");
    return 22;
}

static void *sit_in_fgets(void *tid) {
    char line[16];
    __atomic_store_n((pid_t *)tid, sys_gettid(), __ATOMIC_RELEASE);
    return fgets(line, sizeof line, stdin);
}

// A thread holds the lock of stdin for as long as it waits for a line: exit does not wait for it.
static int by_return_beside_a_reader(void) {
    int ends[2];
    pid_t tid = 0;
    pthread_t thread;
    if (pipe(ends) != 0 || dup2(ends[0], STDIN_FILENO) != STDIN_FILENO)
        return 1;
    leak();
    pthread_create(&thread, NULL, sit_in_fgets, &tid);
    while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0)
        sys_sleep_ms(1);
    rig_wait_asleep(tid);
    printf("written by exit, beside a reader");
    return 24;
}

static int by_execve(void) {
    leak();
    fflush(stdout);
    execlp("sh", "sh", "-c", "echo new image; exit 23", (char *)NULL);
    return 1;
}

// Closed in an atexit handler: no leak, for our report comes behind all handlers.
static int late_fd;

static void close_late(void) {
    close(late_fd);
}

static int closed_at_exit(void) {
    late_fd = leak();
    atexit(close_late);
    return 0;
}

static int clean(void) {
    close(leak());
    return 5;
}

static int no_socket(void) {
    return 6;
}

static const struct rig_scenario scenarios[] = {
    {"return", by_return},
    {"exit", by_exit},
    {"_exit", by__exit},
    {"_Exit", by__Exit},
    {"quick_exit", by_quick_exit},
    {"exit_group", by_exit_group},
    {"high_bits", by_exit_with_high_bits},
    {"thread", by_exit_from_a_thread},
    {"last_thread", by_last_thread},
    {"handler", by_exit_in_a_handler},
    {"quick_handlers", by_quick_exit_with_handlers},
    {"_exit_in_handler", by__exit_in_a_handler},
    {"unflushed", by_unflushed_output},
    {"reader", by_return_beside_a_reader},
    // From here on there is no report:
    {"abort", by_abort},
    {"execve", by_execve},
    {"closed_at_exit", closed_at_exit},
    {"clean", clean},
    {"no_socket", no_socket},
};

enum {
    COUNT = sizeof scenarios / sizeof *scenarios,
    REPORTED = 14
};

static struct rig_result result;

static void an_end_makes_one_report_and_keeps_the_status(void **state) {
    rig_assert_same_as_bare(*state, NULL, &result);
    assert_int_equal(rig_reports(result.err), 1);
    assert_int_equal(rig_count(result.err, "sockleak: 1 socket left in CLOSE_WAIT"), 1);
    assert_non_null(strstr(result.err, "eof-ignored"));
}

static void an_end_without_report_is_silent(void **state) {
    rig_assert_same_as_bare(*state, NULL, &result);
    if (strcmp(*state, "abort") != 0)
        assert_string_equal(result.err, "");
    assert_int_equal(rig_reports(result.err), 0);
}

static void exitcode_replaces_the_status_of_a_leaking_process(void **state) {
    int first = rig_run(&result, *state, BARE, NULL)->status;
    static char bare_out[RIG_CAPTURE_BYTES];
    memcpy(bare_out, result.out, sizeof bare_out);
    rig_run(&result, *state, PRELOADED, "exitcode=99");
    assert_int_equal(result.status, 99 << 8);
    assert_int_not_equal(first, result.status);
    assert_string_equal(result.out, bare_out);
    assert_int_equal(rig_reports(result.err), 1);
}

static void exitcode_leaves_a_clean_process_alone(void **state) {
    (void)state;
    rig_assert_same_as_bare("clean", "exitcode=99", NULL);
    rig_assert_same_as_bare("no_socket", "exitcode=99", NULL);
    rig_assert_same_as_bare("closed_at_exit", "exitcode=99", NULL);
}

static void verbosity_1_reports_a_clean_process(void **state) {
    (void)state;
    rig_assert_same_as_bare("clean", "verbosity=1", &result);
    assert_int_equal(rig_reports(result.err), 1);
    assert_non_null(strstr(result.err, "0 leaked"));
}

// --- children -----------------------------------------------------------------------------------

static int child_leaves(void (*leave)(int), pid_t (*make)(void)) {
    int fd = leak();
    pid_t pid = make();
    if (pid == 0)
        leave(3);
    int status = 0;
    waitpid(pid, &status, 0);
    printf("child status %#x\n", (unsigned)status);
    close(fd);
    return 0;
}

static int fork_and_exit(void) {
    return child_leaves(exit, fork);
}

static int fork_and__exit(void) {
    return child_leaves(_exit, fork);
}

static int quiet_fork_and__exit(void) {
    return child_leaves(_exit, _Fork);
}

static pid_t raw_fork(void) {
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static int raw_fork_and__exit(void) {
    return child_leaves(_exit, raw_fork);
}

static int own_leak_in_child(void) {
    close(leak()); // there is a ledger before the fork
    pid_t pid = fork();
    if (pid == 0) {
        leak();
        exit(4);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static int vfork_and__exit(void) {
    int fd = leak();
    pid_t pid = vfork();
    if (pid == 0)
        _exit(3);
    int status = 0;
    waitpid(pid, &status, 0);
    close(fd);
    return WEXITSTATUS(status);
}

static const struct rig_scenario children[] = {
    {"fork_exit", fork_and_exit},          {"fork__exit", fork_and__exit},
    {"_Fork__exit", quiet_fork_and__exit}, {"raw_fork__exit", raw_fork_and__exit},
    {"vfork__exit", vfork_and__exit},      {"own_leak", own_leak_in_child},
};

// The parent has the socket open still and will close it: no leak of the child's.
static void what_the_parent_still_holds_is_not_the_childs_leak(void **state) {
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        rig_assert_same_as_bare(children[i].name, NULL, &result);
        if (result.err[0])
            print_error("%s: %s", children[i].name, result.err);
        assert_string_equal(result.err, "");
    }
}

static void a_childs_own_leak_is_reported_by_the_child_once(void **state) {
    (void)state;
    rig_assert_same_as_bare("own_leak", NULL, &result);
    assert_int_equal(rig_reports(result.err), 1);
    char own_prefix[32];
    snprintf(own_prefix, sizeof own_prefix, "==%d== ", result.pid);
    assert_null(strstr(result.err, own_prefix)); // the child's pid, not the parent's
}

int main(int argc, char **argv) {
    enum {
        CHILDREN = sizeof children / sizeof *children,
        OTHERS = 4,
        TESTS = COUNT + REPORTED + OTHERS
    };
    struct rig_scenario all[COUNT + CHILDREN];
    memcpy(all, scenarios, sizeof scenarios);
    memcpy(all + COUNT, children, sizeof children);
    rig_start(argc, argv, all, COUNT + CHILDREN);
    struct CMUnitTest tests[TESTS] = {
        cmocka_unit_test(exitcode_leaves_a_clean_process_alone),
        cmocka_unit_test(verbosity_1_reports_a_clean_process),
        cmocka_unit_test(what_the_parent_still_holds_is_not_the_childs_leak),
        cmocka_unit_test(a_childs_own_leak_is_reported_by_the_child_once),
    };
    for (int i = 0; i < COUNT; i++)
        tests[OTHERS + i] =
            (struct CMUnitTest){scenarios[i].name,
                                i < REPORTED ? an_end_makes_one_report_and_keeps_the_status
                                             : an_end_without_report_is_silent,
                                NULL, NULL, (void *)(uintptr_t)scenarios[i].name};
    for (int i = 0; i < REPORTED; i++)
        tests[OTHERS + COUNT + i] = (struct CMUnitTest){
            scenarios[i].name, exitcode_replaces_the_status_of_a_leaking_process, NULL, NULL,
            (void *)(uintptr_t)scenarios[i].name};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
