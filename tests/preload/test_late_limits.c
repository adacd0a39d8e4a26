// Limits that a program gives itself when it has sockets already: the addresses that the library
// keeps for later are not counted against it (RLIMIT_AS; RLIMIT_MEMLOCK at mlockall).
#include "rig.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LIMIT_BYTES = 120 << 20, // vsftpd's is 200 MB
    WANTED_BYTES = 48 << 20,
    LEAKS_BEHIND = 300
};

static __attribute__((noinline)) void leak(void) { // by its name in a report
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    printf("recv %ld\n", (long)recv(pair.server, &byte, 1, 0));
}

static void say_whether_there_is_memory(void) {
    void *memory =
        mmap(NULL, WANTED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("mmap: %s\n", memory == MAP_FAILED ? strerror(errno) : "ok");
    if (memory != MAP_FAILED)
        memset(memory, 1, WANTED_BYTES);
}

static int by_setrlimit(const struct rlimit *limit) {
    return setrlimit(RLIMIT_AS, limit);
}

static int by_setrlimit64(const struct rlimit *limit) {
    return setrlimit64(RLIMIT_AS, (const struct rlimit64 *)limit);
}

static int by_prlimit(const struct rlimit *limit) {
    return prlimit(0, RLIMIT_AS, limit, NULL);
}

static int by_prlimit64(const struct rlimit *limit) {
    return prlimit64(getpid(), RLIMIT_AS, (const struct rlimit64 *)limit, NULL);
}

static int by_syscall(const struct rlimit *limit) {
    return (int)syscall(SYS_prlimit64, 0, RLIMIT_AS, limit, NULL);
}

static void *by_this_threads_id(void *limit) {
    return (void *)(intptr_t)prlimit((pid_t)syscall(SYS_gettid), RLIMIT_AS, limit, NULL);
}

static int by_another_thread(const struct rlimit *limit) {
    pthread_t thread;
    void *result = NULL;
    pthread_create(&thread, NULL, by_this_threads_id, (void *)(uintptr_t)limit);
    pthread_join(thread, &result);
    return (int)(intptr_t)result;
}

static int into_its_own_argument(const struct rlimit *limit) {
    struct rlimit both = *limit;
    return prlimit(0, RLIMIT_AS, &both, &both);
}

static int limit(int (*by)(const struct rlimit *)) {
    const struct rlimit wanted = {LIMIT_BYTES, RLIM_INFINITY};
    struct rlimit now = {0, 0};
    int result = by(&wanted);
    getrlimit(RLIMIT_AS, &now);
    printf("%d, now %lu\n", result, (unsigned long)now.rlim_cur);
    return result;
}

static int limited(int (*by)(const struct rlimit *)) {
    leak();
    limit(by);
    say_whether_there_is_memory();
    leak();
    return 3;
}

static int limited_by_setrlimit(void) {
    return limited(by_setrlimit);
}

static int limited_by_setrlimit64(void) {
    return limited(by_setrlimit64);
}

static int limited_by_prlimit(void) {
    return limited(by_prlimit);
}

static int limited_by_prlimit64(void) {
    return limited(by_prlimit64);
}

static int limited_by_syscall(void) {
    return limited(by_syscall);
}

static int limited_by_another_thread(void) {
    return limited(by_another_thread);
}

static int limited_into_its_own_argument(void) {
    return limited(into_its_own_argument);
}

static int many_behind(void) {
    leak();
    limit(by_setrlimit);
    say_whether_there_is_memory();
    for (int i = 0; i < LEAKS_BEHIND; i++)
        leak();
    return 3;
}

static int limited_in_a_child(void) { // as vsftpd does it
    leak();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        limit(by_setrlimit);
        say_whether_there_is_memory();
        leak();
        exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    return 3;
}

static int child_of_the_limited(void) {
    leak();
    limit(by_setrlimit);
    // Where the addresses were there is something of the program's now.
    char *own =
        mmap(NULL, WANTED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (own == MAP_FAILED)
        return 4;
    memset(own, 'x', WANTED_BYTES);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        size_t kept = 0;
        leak();
        for (size_t i = 0; i < WANTED_BYTES; i++)
            kept += own[i] == 'x';
        printf("kept %zu\n", kept);
        exit(kept == WANTED_BYTES ? 0 : 5);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    return 3;
}

// No atfork handler runs: the child's ledger is its parent's file, until it calls a hook.
static int limited_in_a_raw_child(void) {
    const struct rlimit files = {6000, 6000};
    leak();
    fflush(stdout);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        const struct rlimit wanted = {LIMIT_BYTES, RLIM_INFINITY};
        _exit(setrlimit(RLIMIT_AS, &wanted) == 0 ? 0 : 6);
    }
    int status = -1, last = -1;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        return RIG_SKIPPED;
    for (int i = 0; i < 5000; i++) // more than there would be room for
        last = socket(AF_INET, SOCK_STREAM, 0);
    printf("last %d\n", last);
    return 3;
}

static void *opens_and_closes(void *stop) {
    unsigned long count = 0;
    while (!__atomic_load_n((int *)stop, __ATOMIC_ACQUIRE) || count < 100) {
        close(socket(AF_INET, SOCK_STREAM, 0));
        count++;
    }
    return NULL;
}

static int limited_among_threads(void) {
    pthread_t threads[3];
    int stop = 0;
    leak();
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, opens_and_closes, &stop);
    limit(by_setrlimit);
    say_whether_there_is_memory();
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    leak();
    return 3;
}

static int a_limit_of_another_process(void) {
    leak();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    const struct rlimit wanted = {LIMIT_BYTES, RLIM_INFINITY};
    printf("%d\n", prlimit(child, RLIMIT_AS, &wanted, NULL));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 3;
}

// Who has the capability may lock whatever it likes.
static int locks_all(void) {
    const struct rlimit little = {8 << 20, 8 << 20};
    leak();
    if (setrlimit(RLIMIT_MEMLOCK, &little) != 0 || (geteuid() == 0 && setuid(65534) != 0))
        return RIG_SKIPPED;
    errno = 7777;
    printf("mlockall %d\n", mlockall(MCL_CURRENT));
    printf("errno %d, munlockall %d\n", errno, munlockall());
    leak();
    return 3;
}

static int locks_all_by_syscall(void) {
    const struct rlimit little = {8 << 20, 8 << 20};
    leak();
    if (setrlimit(RLIMIT_MEMLOCK, &little) != 0 || (geteuid() == 0 && setuid(65534) != 0))
        return RIG_SKIPPED;
    errno = 7777;
    printf("mlockall %ld\n", syscall(SYS_mlockall, MCL_CURRENT));
    printf("errno %d\n", errno);
    return 3;
}

static const struct rig_scenario scenarios[] = {
    {"limited_by_setrlimit", limited_by_setrlimit},
    {"limited_by_setrlimit64", limited_by_setrlimit64},
    {"limited_by_prlimit", limited_by_prlimit},
    {"limited_by_prlimit64", limited_by_prlimit64},
    {"limited_by_syscall", limited_by_syscall},
    {"many_behind", many_behind},
    {"limited_in_a_child", limited_in_a_child},
    {"child_of_the_limited", child_of_the_limited},
    {"limited_among_threads", limited_among_threads},
    {"a_limit_of_another_process", a_limit_of_another_process},
    {"locks_all", locks_all},
    {"locks_all_by_syscall", locks_all_by_syscall},
    {"limited_by_another_thread", limited_by_another_thread},
    {"limited_into_its_own_argument", limited_into_its_own_argument},
    {"limited_in_a_raw_child", limited_in_a_raw_child},
};

// --- the claims ---------------------------------------------------------------------------------

static struct rig_result result;

static void as_bare(const char *scenario, const char *options) {
    rig_assert_same_as_bare_or_skip(scenario, options, &result);
    assert_int_equal(result.status, 3 << 8);
}

static void a_limit_on_addresses_leaves_the_program_its_own(void **state) {
    (void)state;
    static const char *const names[] = {
        "limited_by_setrlimit",      "limited_by_setrlimit64",       "limited_by_prlimit",
        "limited_by_prlimit64",      "limited_by_syscall",           "limited_among_threads",
        "limited_by_another_thread", "limited_into_its_own_argument"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        as_bare(names[i], "exit_grace_ms=0");
        rig_assert_said(&result, "2 leaked (2 close-wait, 0 dead)");
    }
}

static void so_does_one_with_the_ledger_in_a_file(void **state) {
    (void)state;
    as_bare("limited_by_setrlimit", rig_ledger_options("exit_grace_ms=0:verbosity=1"));
    rig_assert_said(&result, "2 leaked (2 close-wait, 0 dead)");
}

static void what_is_kept_is_enough_for_many_sockets_more(void **state) {
    (void)state;
    as_bare("many_behind", "exit_grace_ms=0");
    rig_assert_said(&result, "301 leaked (301 close-wait, 0 dead), 0 open");
    rig_assert_said(&result, "0 not tracked");
}

static void a_child_that_limits_itself_is_as_bare(void **state) {
    (void)state;
    as_bare("limited_in_a_child", "exit_grace_ms=0");
    rig_assert_said(&result, "1 leaked (1 close-wait, 0 dead)");
    as_bare("limited_in_a_child", rig_ledger_options("exit_grace_ms=0:verbosity=1"));
    rig_assert_said(&result, "1 leaked (1 close-wait, 0 dead)");
    as_bare("limited_in_a_raw_child", rig_ledger_options("exit_grace_ms=0:verbosity=1"));
    rig_assert_said(&result, "5000 open, 1 closed properly; 0 not tracked");
}

static void a_child_leaves_alone_what_the_program_has_there_now(void **state) {
    (void)state;
    as_bare("child_of_the_limited", "exit_grace_ms=0");
    as_bare("child_of_the_limited", rig_ledger_options("exit_grace_ms=0:verbosity=1"));
    rig_assert_said(&result, "1 leaked (1 close-wait, 0 dead)");
}

static void a_limit_of_another_process_changes_nothing_here(void **state) {
    (void)state;
    as_bare("a_limit_of_another_process", "exit_grace_ms=0");
}

static void all_memory_can_be_locked_that_bare_could(void **state) {
    (void)state;
    as_bare("locks_all", "exit_grace_ms=0");
    rig_assert_said(&result, "2 leaked (2 close-wait, 0 dead)");
    as_bare("locks_all_by_syscall", "exit_grace_ms=0");
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_on_addresses_leaves_the_program_its_own),
        cmocka_unit_test(so_does_one_with_the_ledger_in_a_file),
        cmocka_unit_test(what_is_kept_is_enough_for_many_sockets_more),
        cmocka_unit_test(a_child_that_limits_itself_is_as_bare),
        cmocka_unit_test(a_child_leaves_alone_what_the_program_has_there_now),
        cmocka_unit_test(a_limit_of_another_process_changes_nothing_here),
        cmocka_unit_test(all_memory_can_be_locked_that_bare_could),
    };
    return cmocka_run_group_tests_name("late limits", tests, NULL, NULL);
}
