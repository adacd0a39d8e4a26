// A ledger file that somebody truncates while it is mapped: the process goes on, keeps its ledger
// in memory of its own from there, and says what it lost. And SIGBUS, which tells the library of
// it, stays the program's: what it sets, what it reads back, and how it ends.
#include "base/sys.h"
#include "rig.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    MANY = 600, // sockets, more than one growth step of the records has room for
    LIVES = 2000,
    THREADS = 3,
    ROUNDS = 12,
    INTERRUPTIONS = 60,
    FORKS = 3,
    PAGE = 4096
};

// Not by a call that the library sees: whoever meets it first does so in a hook of its own.
static int cut_file(int dir, const char *name, long bytes) {
    const char *regrown = getenv("REGROWN_BYTES");
    int fd = openat(dir, name, O_WRONLY);
    int result = fd < 0 ? -1 : ftruncate(fd, bytes);
    if (result == 0 && regrown)
        result = ftruncate(fd, atol(regrown));
    sys_close(fd);
    return result;
}

// The ledgers in CUT_DIRECTORY. Bare there is none. Answers true where there should be one and is.
static bool cut(long bytes) {
    DIR *dir = opendir(getenv("CUT_DIRECTORY"));
    struct dirent *entry;
    int files = 0;
    while (dir && (entry = readdir(dir)))
        files +=
            strstr(entry->d_name, ".ledger") && cut_file(dirfd(dir), entry->d_name, bytes) == 0;
    return files > 0 || !getenv("LD_PRELOAD");
}

static int leak(void) {
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    return (int)recv(pair.server, &byte, 1, 0);
}

static void lives(int count) {
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int copy = dup(fd);
        shutdown(fd, SHUT_RDWR);
        close(fd);
        close(copy);
    }
}

// --- the file is cut ----------------------------------------------------------------------------

static int goes_on(void) {
    struct rlimit limit = {2 * MANY, 2 * MANY};
    setrlimit(RLIMIT_NOFILE, &limit);
    int failed = leak();
    int held = socket(AF_INET, SOCK_STREAM, 0);
    const char *kept = getenv("KEPT_BYTES");
    if (!cut(kept ? atol(kept) : 0))
        return 1;
    failed |= shutdown(held, SHUT_RDWR) != -1; // not connected
    failed |= close(held);
    failed |= leak();
    for (int i = 0; i < MANY; i++)
        failed |= socket(AF_INET, SOCK_STREAM, 0) < 0;
    lives(LIVES);
    printf("failed %d\n", failed);
    return failed ? 1 : 3;
}

static int forks_on(void) {
    leak();
    if (!cut(0))
        return 1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        leak();
        lives(LIVES);
        exit(4);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    return 3;
}

static bool enough;

static void *churn(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&enough, __ATOMIC_RELAXED))
        lives(1);
    return NULL;
}

// At any point of a hook's way.
static int goes_on_amid_threads(void) {
    pthread_t threads[THREADS];
    for (int round = 0; round < ROUNDS; round++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            lives(1 + round * 10);
            for (int i = 0; i < THREADS; i++)
                pthread_create(&threads[i], NULL, churn, NULL);
            lives(1 + round * 100);
            bool was_cut = cut(0);
            lives(LIVES);
            __atomic_store_n(&enough, true, __ATOMIC_RELAXED);
            for (int i = 0; i < THREADS; i++)
                pthread_join(threads[i], NULL);
            leak();
            exit(was_cut ? 0 : 1);
        }
        int status;
        waitpid(pid, &status, 0);
        printf("child %#x\n", (unsigned)status);
    }
    return 0;
}

static void ignore(int number) {
    (void)number;
}

static void open_a_socket(void) {
    close(socket(AF_INET, SOCK_STREAM, 0));
}

static void open_one(int number) {
    (void)number;
    open_a_socket();
}

// A signal that comes while the file is being left, and whose handler opens sockets.
static int goes_on_amid_signals(void) {
    for (int round = 0; round < INTERRUPTIONS; round++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            struct itimerval soon = {{0, 0}, {0, 1 + round * 3}};
            signal(SIGALRM, open_one);
            open_a_socket();
            cut(0);
            setitimer(ITIMER_REAL, &soon, NULL);
            lives(50);
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        printf("child %#x\n", (unsigned)status);
    }
    return 0;
}

static int forks_amid_the_cut(void) {
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            int status = 0, failed = 0;
            lives(1 + round * 10);
            pthread_create(&thread, NULL, churn, NULL);
            cut(0);
            for (int i = 0; i < FORKS && !failed; i++) {
                pid_t child = fork();
                if (child == 0) {
                    leak();
                    lives(20);
                    exit(0);
                }
                failed = waitpid(child, &status, 0) != child || status != 0;
            }
            _exit(failed);
        }
        int status;
        waitpid(pid, &status, 0);
        printf("child %#x\n", (unsigned)status);
    }
    return 0;
}

static int goes_on_as_init(void) {
    if (unshare(CLONE_NEWPID) != 0)
        return RIG_SKIPPED;
    pid_t pid = fork();
    if (pid == 0) {
        open_a_socket();
        raise(SIGBUS); // not taken, since it is init's
        bool was_cut = cut(0);
        lives(LIVES);
        leak();
        exit(was_cut ? 3 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static int reports_at_once(void) {
    signal(SIGUSR1, ignore);
    leak();
    if (!cut(0))
        return 1;
    raise(SIGUSR1);
    return 3;
}

// --- SIGBUS is the program's --------------------------------------------------------------------

static char *own; // a page of a file that ends in front of it

static char *map_behind_the_end(void) {
    char name[] = "/tmp/sockleak-own-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page;
}

static void on_own(int number, siginfo_t *info, void *context) {
    (void)context;
    static const char words[] = "the program's handler\n";
    if (number == SIGBUS && info->si_code == BUS_ADRERR && info->si_addr == own &&
        write(STDOUT_FILENO, words, sizeof words - 1) > 0)
        mmap(own, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    else
        _exit(9);
}

static void handle(int flags) {
    struct sigaction action = {.sa_sigaction = on_own, .sa_flags = SA_SIGINFO | flags};
    sigaction(SIGBUS, &action, NULL);
}

static int handles_its_own(void) {
    own = map_behind_the_end();
    handle(0);
    open_a_socket();
    *own = 1;
    own = map_behind_the_end();
    handle(0);
    *own = 2;
    leak();
    bool was_cut = cut(0);
    leak();
    return was_cut && *own == 2 ? 3 : 1;
}

static int handles_one(void) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    open_a_socket();
    own = map_behind_the_end();
    handle((int)SA_RESETHAND);
    *own = 1;
    own = map_behind_the_end();
    *own = 2;
    return 1;
}

static int dies_of_its_own(void) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    open_a_socket();
    *map_behind_the_end() = 1;
    return 1;
}

static int dies_of_one_that_is_sent(void) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    open_a_socket();
    kill(getpid(), SIGBUS);
    return 1;
}

static void count(int number) {
    printf("sent %d\n", number);
}

static int handles_one_that_is_sent(void) {
    open_a_socket();
    signal(SIGBUS, count);
    raise(SIGBUS);
    signal(SIGBUS, SIG_IGN);
    raise(SIGBUS);
    fflush(stdout);
    signal(SIGBUS, count);
    pid_t pid = fork();
    if (pid == 0) {
        raise(SIGBUS);
        exit(0);
    }
    wait(NULL);
    return 3;
}

static const struct rig_scenario scenarios[] = {
    {"goes_on", goes_on},
    {"forks_on", forks_on},
    {"goes_on_amid_threads", goes_on_amid_threads},
    {"goes_on_amid_signals", goes_on_amid_signals},
    {"forks_amid_the_cut", forks_amid_the_cut},
    {"goes_on_as_init", goes_on_as_init},
    {"reports_at_once", reports_at_once},
    {"handles_its_own", handles_its_own},
    {"handles_one", handles_one},
    {"dies_of_its_own", dies_of_its_own},
    {"dies_of_one_that_is_sent", dies_of_one_that_is_sent},
    {"handles_one_that_is_sent", handles_one_that_is_sent},
};

// --- the claims ---------------------------------------------------------------------------------

static struct rig_result result;

static void as_bare(const char *scenario) {
    rig_assert_same_as_bare(scenario, rig_ledger_options("exit_grace_ms=0:grace_ms=0"), &result);
    rig_empty_directory();
}

static const char lost[] = "the ledger's file was truncated";

static void the_program_goes_on_and_so_does_its_ledger(void **state) {
    (void)state;
    as_bare("goes_on");
    assert_int_equal(result.status, 3 << 8);
    rig_assert_said(&result, lost);
    assert_int_equal(rig_reports(result.err), 1);
    rig_assert_said(&result, "2 sockets left in CLOSE_WAIT");
    rig_assert_said(&result, "opened by accept4");
    rig_assert_said(&result, " main+0x");
    rig_assert_said(&result, "origin unknown"); // nothing is invented
}

static void whatever_part_of_it_is_left(void **state) {
    (void)state;
    static const char *const kept[] = {"1",    "100",  "200",     "300",     "4095",
                                       "4096", "8192", "1052672", "60000000"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        setenv("KEPT_BYTES", kept[i], 1);
        as_bare("goes_on");
        assert_int_equal(result.status, 3 << 8);
        rig_assert_said(&result, "2 sockets left in CLOSE_WAIT");
    }
    unsetenv("KEPT_BYTES");
}

static void one_that_is_made_longer_again_is_as_lost(void **state) {
    (void)state;
    setenv("REGROWN_BYTES", "1073741824", 1);
    the_program_goes_on_and_so_does_its_ledger(NULL);
    unsetenv("REGROWN_BYTES");
}

static void a_forked_child_goes_on(void **state) {
    (void)state;
    as_bare("forks_on");
    assert_int_equal(result.status, 3 << 8);
    assert_int_equal(rig_reports(result.err), 2);
}

static void threads_in_the_middle_of_a_hook_go_on(void **state) {
    (void)state;
    as_bare("goes_on_amid_threads");
    assert_int_equal(rig_count(result.out, "child 0\n"), ROUNDS);
    assert_int_equal(rig_count(result.err, lost), ROUNDS);
}

static void signal_handlers_in_the_middle_of_it_go_on(void **state) {
    (void)state;
    as_bare("goes_on_amid_signals");
    assert_int_equal(rig_count(result.out, "child 0\n"), INTERRUPTIONS);
}

static void forks_in_the_middle_of_it_go_on(void **state) {
    (void)state;
    as_bare("forks_amid_the_cut");
    assert_int_equal(rig_count(result.out, "child 0\n"), ROUNDS);
    assert_int_equal(rig_count(result.err, "opened by accept4"), FORKS * ROUNDS); // each in a child
}

static void the_first_process_of_a_namespace_goes_on(void **state) {
    (void)state;
    rig_assert_same_as_bare_or_skip("goes_on_as_init", rig_ledger_options("exit_grace_ms=0"),
                                    &result);
    assert_int_equal(result.status, 3 << 8);
    rig_assert_said(&result, lost);
}

// What is left of a file would be taken for the last that its process knew.
static void no_part_of_the_file_is_left(void **state) {
    (void)state;
    rig_empty_directory();
    setenv("KEPT_BYTES", "60000000", 1);
    rig_run(&result, "goes_on", PRELOADED, rig_ledger_options(NULL));
    unsetenv("KEPT_BYTES");
    rmdir(rig_directory());
    assert_int_equal(access(rig_directory(), F_OK), -1); // it was empty
    assert_int_equal(mkdir(rig_directory(), 0700), 0);
}

static void a_report_of_the_running_process_says_so(void **state) {
    (void)state;
    as_bare("reports_at_once");
    rig_assert_said(&result, "1 socket left in CLOSE_WAIT (1 finding) at SIGUSR1 in");
    assert_int_equal(rig_count(result.err, lost), 2);
}

static void a_handler_of_the_programs_gets_what_is_its_own(void **state) {
    (void)state;
    as_bare("handles_its_own");
    assert_int_equal(result.status, 3 << 8);
    assert_int_equal(rig_count(result.out, "the program's handler"), 2);
    rig_assert_said(&result, lost);
    as_bare("handles_one_that_is_sent");
    assert_int_equal(result.status, 3 << 8);
    assert_int_equal(rig_count(result.out, "sent 7\n"), 2);
}

static void one_that_is_not_handled_kills(void **state) {
    (void)state;
    as_bare("handles_one");
    assert_int_equal(result.status & 0x7f, SIGBUS);
    assert_int_equal(rig_count(result.out, "the program's handler"), 1);
    as_bare("dies_of_its_own");
    assert_int_equal(result.status & 0x7f, SIGBUS);
    as_bare("dies_of_one_that_is_sent");
    assert_int_equal(result.status & 0x7f, SIGBUS);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("CUT_DIRECTORY", rig_directory(), 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_program_goes_on_and_so_does_its_ledger),
        cmocka_unit_test(whatever_part_of_it_is_left),
        cmocka_unit_test(one_that_is_made_longer_again_is_as_lost),
        cmocka_unit_test(a_forked_child_goes_on),
        cmocka_unit_test(threads_in_the_middle_of_a_hook_go_on),
        cmocka_unit_test(signal_handlers_in_the_middle_of_it_go_on),
        cmocka_unit_test(forks_in_the_middle_of_it_go_on),
        cmocka_unit_test(the_first_process_of_a_namespace_goes_on),
        cmocka_unit_test(no_part_of_the_file_is_left),
        cmocka_unit_test(a_report_of_the_running_process_says_so),
        cmocka_unit_test(a_handler_of_the_programs_gets_what_is_its_own),
        cmocka_unit_test(one_that_is_not_handled_kills),
    };
    return cmocka_run_group_tests_name("cut_file", tests, NULL, NULL);
}
