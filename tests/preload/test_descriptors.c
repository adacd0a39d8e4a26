// A watched process has exactly the descriptors that it has bare, with the same numbers, and no
// byte moves on any of them that the program did not move. libunwind keeps a pipe in its process,
// and reads and writes on it after the program has put its own sockets in those numbers: the theft
// is reproduced with libunwind as it is, and must be gone with ours.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    THREADS = 8,
    PAIRS = 6,
    DEPTH = 6
};

// --- the table ----------------------------------------------------------------------------------

// Numbers and kinds of all descriptors; inode numbers differ from run to run.
static void say_table(const char *when) {
    printf("%s:", when);
    for (int fd = 0; fd < 64; fd++) {
        char path[32], link[PATH_MAX];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        long n = sys_readlinkat(AT_FDCWD, path, link, sizeof link - 1);
        if (n < 0)
            continue;
        link[n] = '\0';
        link[strcspn(link, "[")] = '\0';
        printf(" %d=%s/%ld/%ld", fd, link, sys_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0),
               sys_call(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0));
    }
    printf("\n");
}

static void *use_sockets(void *unused) {
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    int copy = dup(pair.server), listener = rig_listen();
    printf("numbers %d %d %d %d\n", pair.client, pair.server, copy, listener);
    rig_peer_closes(pair);
    recv(pair.server, &byte, 1, 0);
    close(pair.server);
    close(listener);
    say_table("in a thread");
    close(copy);
    return unused;
}

static void on_signal(int number) {
    (void)number;
}

static int table(void) {
    signal(SIGUSR1, on_signal);
    say_table("at start");
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, use_sockets, NULL);
        pthread_join(thread, NULL);
    }
    int kept = socket(AF_INET, SOCK_STREAM, 0);
    say_table("after the threads");
    raise(SIGUSR1); // a live report
    say_table("after a report");
    close(kept);
    printf("next %d\n", open("/dev/null", O_RDONLY));
    return 0;
}

static void the_table_of_descriptors_is_the_bare_one(void **state) {
    (void)state;
    rig_assert_same_as_bare("table", NULL, NULL);
    rig_assert_same_as_bare("table", "verbosity=1:show=all:families=all", NULL);
}

static void the_table_is_the_bare_one_with_a_log_and_a_ledger_file(void **state) {
    (void)state;
    char more[128], command[128];
    snprintf(more, sizeof more, "verbosity=1:log_path=%s/log", rig_directory());
    rig_assert_same_as_bare("table", rig_ledger_options(more), NULL);
    snprintf(command, sizeof command, "test -s %s/log", rig_directory());
    assert_int_equal(system(command), 0);
}

// --- the theft ----------------------------------------------------------------------------------

static const char request[] = "request";

enum {
    REQUEST_BYTES = sizeof request - 1
};

static int (*plain_backtrace)(void **, int);
static int listener;

// Addresses in several pages of a new stack, each of which libunwind validates.
static __attribute__((noinline)) int deep(int depth, int (*at_the_bottom)(void)) {
    volatile char page[4096];
    page[0] = page[4095] = 1;
    int result = depth ? deep(depth - 1, at_the_bottom) : at_the_bottom();
    return result + page[0] - 1;
}

static int capture_plainly(void) {
    void *frames[64];
    return plain_backtrace(frames, 64);
}

static int capture_by_hooks(void) {
    char byte;
    int client = rig_quiet_connect(listener), fd = accept(listener, NULL, NULL);
    sys_close(client);
    recv(fd, &byte, 1, 0);
    close(fd);
    return 1;
}

static void *capture(void *how) {
    deep(DEPTH, (int (*)(void))how);
    return NULL;
}

// Takes every number that is free for sockets with a request in each direction; what the captures
// of new threads do to them is counted and printed.
static int count_moved(int (*how)(void)) {
    sys_call(SYS_close_range, 3, ~0u, 0, 0, 0, 0);
    int fds[PAIRS][2], moved = 0, flags = 0;
    for (int i = 0; i < PAIRS; i++) {
        socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]);
        for (int side = 0; side < 2; side++)
            if (write(fds[i][side], request, REQUEST_BYTES) != REQUEST_BYTES)
                return 1;
    }
    listener = rig_listen();
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, capture, (void *)how);
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < PAIRS; i++)
        for (int side = 0; side < 2; side++) {
            char got[64];
            long n = recv(fds[i][side], got, sizeof got, MSG_DONTWAIT);
            moved += n != REQUEST_BYTES || memcmp(got, request, REQUEST_BYTES) != 0;
            flags += (fcntl(fds[i][side], F_GETFL) & O_NONBLOCK) != 0;
        }
    printf("moved %d, non-blocking %d\n", moved, flags);
    return 0;
}

static int theft_by_libunwind(void) {
    void *library = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
    void *function = library ? dlsym(library, "unw_backtrace") : NULL;
    if (!function)
        return RIG_SKIPPED;
    plain_backtrace = (int (*)(void **, int))function;
    deep(DEPTH, capture_plainly);
    return count_moved(capture_plainly);
}

static int no_theft_by_us(void) {
    listener = rig_listen();
    deep(DEPTH, capture_by_hooks);
    int result = count_moved(capture_by_hooks);
    const struct ledger_stack *stack = view_stack(view_record(listener)->birth_stack);
    printf("deep stacks %d\n", stack && stack->depth > 2 && !stack->flags);
    return result;
}

static void libunwind_as_it_is_moves_bytes_on_the_programs_sockets(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "theft_by_libunwind", BARE, NULL);
    if (result.status == RIG_SKIPPED << 8)
        skip(); // no libunwind
    assert_int_equal(result.status, 0);
    if (strcmp(result.out, "moved 0, non-blocking 0\n") == 0)
        skip(); // a version that keeps no descriptor
    assert_int_equal(strncmp(result.out, "moved ", 6), 0);
    assert_true(atoi(result.out + 6) > 0);
}

static void under_us_no_byte_moves(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "no_theft_by_us", PRELOADED, NULL);
    assert_string_equal(result.out, "moved 0, non-blocking 0\ndeep stacks 1\n");
    assert_int_equal(result.status, 0);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {{"table", table},
                                                    {"theft_by_libunwind", theft_by_libunwind},
                                                    {"no_theft_by_us", no_theft_by_us}};
    rig_start(argc, argv, scenarios, 3);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_descriptors_is_the_bare_one),
        cmocka_unit_test(the_table_is_the_bare_one_with_a_log_and_a_ledger_file),
        cmocka_unit_test(libunwind_as_it_is_moves_bytes_on_the_programs_sockets),
        cmocka_unit_test(under_us_no_byte_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
