// Eight threads open, read to the end, dup and close for two seconds, with the same numbers going
// from hand to hand. At the end the ledger's fd table is the kernel's, exactly.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    THREADS = 8,
    RUN_MS = 2000,
    KEPT = 5
};

static int stop;

struct worker {
    pthread_t thread;
    unsigned seed;
    int kept[KEPT];
    unsigned rounds, unseen_ends;
};

// One connection's life; which way it ends is random. Leaves fds[0] open where it says so.
static bool live_one(struct worker *w, int *left) {
    char byte;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        abort();
    int choice = rand_r(&w->seed) % 8;
    close(fds[1]);
    recv(fds[0], &byte, 1, 0);
    if (!view_record(fds[0]) || view_record(fds[0])->eof_ns == 0)
        w->unseen_ends++;
    switch (choice) {
    case 0: {
        int copy = dup(fds[0]);
        close(fds[0]);
        fds[0] = copy;
        break;
    }
    case 1: {
        int other = socket(AF_INET, SOCK_STREAM, 0);
        dup2(other, fds[0]);
        close(other);
        break;
    }
    case 2: {
        int null = open("/dev/null", O_RDONLY);
        dup2(null, fds[0]);
        close(null);
        break;
    }
    case 3:
        shutdown(fds[0], SHUT_RDWR);
        break;
    case 4:
        syscall(SYS_close, (long)fds[0]);
        return false;
    case 5:
        *left = fds[0];
        return true;
    default:
        break;
    }
    close(fds[0]);
    return false;
}

static void *work(void *argument) {
    struct worker *w = argument;
    for (int i = 0; i < KEPT; i++)
        w->kept[i] = socket(AF_INET, SOCK_STREAM, 0);
    for (; !__atomic_load_n(&stop, __ATOMIC_RELAXED); w->rounds++) {
        int left;
        if (live_one(w, &left)) {
            int slot = rand_r(&w->seed) % KEPT;
            close(w->kept[slot]);
            w->kept[slot] = left;
        }
    }
    return NULL;
}

static void the_fd_table_matches_the_kernels_after_a_storm(void **state) {
    (void)state;
    static struct worker workers[THREADS];
    close(socket(AF_INET, SOCK_STREAM, 0));
    for (int i = 0; i < THREADS; i++) {
        workers[i].seed = (unsigned)i + 1;
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    sys_sleep_ms(RUN_MS);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    unsigned rounds = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].unseen_ends, 0);
        rounds += workers[i].rounds;
    }
    assert_true(rounds > 1000);

    int limit = (int)view_ledger()->regions[LEDGER_FDS].used;
    unsigned sockets = 0;
    for (int fd = 0; fd < limit + 64; fd++) {
        struct stat status;
        bool is_socket = sys_fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
        if (is_socket != (view_number(fd) != 0) || (is_socket && !view_is_tracked(fd)))
            print_error("fd %d: the kernel says socket %d, the ledger record %u\n", fd, is_socket,
                        view_number(fd));
        assert_int_equal(is_socket, view_number(fd) != 0);
        assert_true(!is_socket || view_is_tracked(fd));
        if (is_socket)
            assert_int_equal(view_record(fd)->holders, 1);
        sockets += is_socket;
    }
    assert_int_equal(sockets, THREADS * KEPT);

    const struct ledger_counters *counters = &view_ledger()->counters;
    assert_int_equal(counters->born - counters->closed, sockets);
    assert_int_equal(counters->closed_unseen, 0);
    assert_int_equal(counters->untracked_records + counters->stacks_lost, 0);
    // Records are used again: never many more than were open at once.
    assert_true(view_ledger()->regions[LEDGER_RECORDS].used < 1000);
    for (int i = 0; i < THREADS; i++)
        for (int k = 0; k < KEPT; k++)
            close(workers[i].kept[k]);
    assert_int_equal(view_tracked_fds(), 0);
    assert_int_equal(counters->born, counters->closed);
}

// As small as POSIX allows: births, ends and deaths take a bounded piece of the program's stack.
static void *live_on_a_small_stack(void *unused) {
    struct worker w = {.seed = 7};
    for (int i = 0; i < 32; i++) {
        int left;
        if (live_one(&w, &left))
            close(left);
    }
    return unused;
}

static void hooks_fit_the_smallest_stack(void **state) {
    (void)state;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    assert_int_equal(pthread_attr_setstacksize(&attributes, (size_t)sysconf(_SC_THREAD_STACK_MIN)),
                     0);
    assert_int_equal(pthread_create(&thread, &attributes, live_on_a_small_stack, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hooks_fit_the_smallest_stack),
        cmocka_unit_test(the_fd_table_matches_the_kernels_after_a_storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
