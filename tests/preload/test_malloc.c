// Hooks never malloc once the process's first socket is born, on no thread: they may be called
// where malloc's lock is held. This program's malloc counts, and takes a signal while it is locked.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *memory);

static __thread unsigned allocations __attribute__((tls_model("initial-exec")));
static __thread int locked __attribute__((tls_model("initial-exec")));
static int interrupt_the_next; // a malloc raises SIGUSR2 while it is "locked"
static unsigned reentered;

static void enter(void) {
    allocations++;
    reentered += locked > 0;
    locked++;
    if (__atomic_exchange_n(&interrupt_the_next, 0, __ATOMIC_RELAXED))
        sys_call(SYS_tgkill, sys_getpid(), sys_gettid(), SIGUSR2, 0, 0, 0);
}

void *malloc(size_t bytes) {
    enter();
    void *memory = __libc_malloc(bytes);
    locked--;
    return memory;
}

void *calloc(size_t count, size_t bytes) {
    enter();
    void *memory = __libc_calloc(count, bytes);
    locked--;
    return memory;
}

void *realloc(void *old, size_t bytes) {
    enter();
    void *memory = __libc_realloc(old, bytes);
    locked--;
    return memory;
}

void *memalign(size_t alignment, size_t bytes);
void *memalign(size_t alignment, size_t bytes) {
    enter();
    void *memory = __libc_memalign(alignment, bytes);
    locked--;
    return memory;
}

void free(void *memory) {
    enter();
    __libc_free(memory);
    locked--;
}

static int listener;

// Every family of hooks, at a depth of its own. No libc call here mallocs by itself.
static void use_every_hook(void) {
    char byte;
    int pair[2];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct sigaction now;
    int client = rig_quiet_connect(listener);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    sys_close(client);
    recv(server, &byte, 1, 0);
    shutdown(server, SHUT_RDWR);
    int copy = dup(server);
    dup2(copy, server);
    close(fcntl(server, F_DUPFD_CLOEXEC, 50));
    syscall(SYS_close, (long)copy);
    close(server);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    sys_close(pair[1]);
    recvmsg(pair[0], &message, 0);
    readv(pair[0], &part, 1);
    close_range((unsigned)pair[0], (unsigned)pair[1], 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, NULL, 0);
    close(fd);
    sigaction(SIGTERM, NULL, &now);
}

static void *use_in_a_thread(void *counted) {
    allocations = 0;
    use_every_hook();
    *(unsigned *)counted = allocations;
    return NULL;
}

static void on_signal(int number) {
    (void)number;
    use_every_hook();
}

static void hooks_on_new_threads_never_malloc(void **state) {
    (void)state;
    for (int i = 0; i < 8; i++) {
        unsigned counted = 99;
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, use_in_a_thread, &counted), 0);
        pthread_join(thread, NULL);
        assert_int_equal(counted, 0);
    }
    assert_int_equal(view_ledger()->counters.stacks_call_site, 0); // whole stacks were captured
}

static void hooks_in_a_handler_that_interrupts_malloc_do_not_enter_it(void **state) {
    (void)state;
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigaction(SIGUSR2, &action, &before);
    for (int i = 0; i < 16; i++) {
        __atomic_store_n(&interrupt_the_next, 1, __ATOMIC_RELAXED);
        void *memory = malloc(100);
        assert_non_null(memory);
        free(memory);
        assert_int_equal(interrupt_the_next, 0);
    }
    assert_int_equal(reentered, 0);
    sigaction(SIGUSR2, &before, NULL);
}

static void a_live_report_does_not_malloc(void **state) {
    (void)state;
    allocations = 0;
    raise(SIGUSR1);
    assert_int_equal(allocations, 0);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, NULL, 0);
    listener = rig_listen();
    use_every_hook(); // the first birth loads libunwind
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hooks_on_new_threads_never_malloc),
        cmocka_unit_test(hooks_in_a_handler_that_interrupts_malloc_do_not_enter_it),
        cmocka_unit_test(a_live_report_does_not_malloc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
