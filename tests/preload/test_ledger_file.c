// A ledger that is a file, as under `sockleak run`: a forked child gets one of its own while its
// parent runs on in the old one.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CONNECTIONS = 50,
    CHILDREN = 25,
    THREADS = 2,
    SOCKETS = 40,
    CHILD_DEADLINE_S = 5,
    ENOUGH_MS = 8000 // on a busy machine fewer children must do
};

static int run_with_directory(const char *scenario, struct rig_result *result) {
    rig_run(result, scenario, PRELOADED, rig_ledger_options(NULL));
    rig_empty_directory();
    if (result->status != 0)
        print_error("%s: %s%s", scenario, result->out, result->err);
    return result->status;
}

static void die(const char *what) {
    printf("%s\n", what);
    fflush(stdout);
    _exit(1);
}

static bool child_failed(pid_t pid) {
    int status;
    return pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
}

// --- a process for each connection
// ----------------------------------------------------------------

static int serves_each_connection_in_a_child(void) {
    int listener = rig_listen();
    for (int i = 0; i < CONNECTIONS; i++) {
        int client = rig_quiet_connect(listener);
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pid_t pid = fork();
        if (pid == 0) {
            const struct ledger_record *record = view_record(connection);
            if (!view_is_tracked(connection) || record->birth_call != CALL_ACCEPT4 ||
                record->birth_stack == LEDGER_NO_STACK)
                die("the child does not know where its connection was opened");
            if (view_ledger()->pid != (uint32_t)getpid() || !view_is_tracked(listener))
                die("the child's ledger is not its own");
            _exit(0);
        }
        close(connection); // at once
        sys_close(client);
        if (child_failed(pid))
            return 1;
        if (view_record(connection))
            die("the parent's closed connection is still in its ledger");
    }
    return 0;
}

static void a_child_knows_the_origin_of_a_connection_that_its_parent_closes(void **state) {
    (void)state;
    static struct rig_result result;
    assert_int_equal(run_with_directory("serves_each_connection_in_a_child", &result), 0);
}

// --- a fork amid threads
// ----------------------------------------------------------------------------

static bool enough;

static void *churn(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&enough, __ATOMIC_RELAXED)) {
        int fds[SOCKETS];
        for (int i = 0; i < SOCKETS; i++)
            fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        for (int i = 0; i < SOCKETS; i++)
            close(fds[i]);
    }
    return NULL;
}

// All that a copy torn in two could hang: held entries, the free list, and chains of stacks.
static void use_the_ledger(void) {
    alarm(CHILD_DEADLINE_S);
    int limit = THREADS * SOCKETS + 64;
    for (int fd = 3; fd < limit; fd++) {
        int copy = dup(fd);
        if (copy >= 0)
            close(copy);
    }
    int fresh[SOCKETS];
    for (int i = 0; i < SOCKETS; i++) {
        fresh[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        if (!view_is_tracked(fresh[i]))
            die("a socket of the child's is not tracked");
        for (int j = 0; j < i; j++)
            if (view_number(fresh[i]) == view_number(fresh[j]))
                die("two sockets have one record");
    }
    close_range(3, ~0u, 0);
    const struct ledger_counters *counters = &view_ledger()->counters;
    if (counters->inherited + counters->born != counters->closed + counters->closed_unseen)
        die("the counters do not add up");
}

static int forks_amid_threads(pid_t (*fork_somehow)(void)) {
    pthread_t threads[THREADS];
    close(socket(AF_UNIX, SOCK_STREAM, 0));
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, churn, NULL);
    int failed = 0;
    uint64_t start_ms = rig_now_ms();
    for (int i = 0; i < CHILDREN && !failed && rig_now_ms() - start_ms < ENOUGH_MS; i++) {
        pid_t pid = fork_somehow();
        if (pid == 0) {
            use_the_ledger();
            sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
        }
        failed = child_failed(pid);
    }
    __atomic_store_n(&enough, true, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return failed;
}

static pid_t fork_without_handlers(void) {
    return (pid_t)sys_call(SYS_clone, 17, 0, 0, 0, 0, 0); // SIGCHLD
}

static int forks_while_threads_open_and_close(void) {
    return forks_amid_threads(fork);
}

static int clones_while_threads_open_and_close(void) {
    return forks_amid_threads(fork_without_handlers);
}

static void a_child_forked_amid_threads_has_a_whole_ledger(void **state) {
    (void)state;
    static struct rig_result result;
    assert_int_equal(run_with_directory("forks_while_threads_open_and_close", &result), 0);
}

static void a_child_cloned_amid_threads_has_a_whole_ledger(void **state) {
    (void)state;
    static struct rig_result result;
    assert_int_equal(run_with_directory("clones_while_threads_open_and_close", &result), 0);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {
        {"serves_each_connection_in_a_child", serves_each_connection_in_a_child},
        {"forks_while_threads_open_and_close", forks_while_threads_open_and_close},
        {"clones_while_threads_open_and_close", clones_while_threads_open_and_close},
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_knows_the_origin_of_a_connection_that_its_parent_closes),
        cmocka_unit_test(a_child_forked_amid_threads_has_a_whole_ledger),
        cmocka_unit_test(a_child_cloned_amid_threads_has_a_whole_ledger),
    };
    return cmocka_run_group_tests_name("ledger_file", tests, NULL, NULL);
}
