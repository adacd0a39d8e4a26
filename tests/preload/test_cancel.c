// Cancellation: a thread that sleeps in one of our wrappers is cancelled there, as in libc's, its
// clean-up handlers run, and afterwards every hook works on. A thread that is not to be cancelled
// is not.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int fd; // what the thread sleeps on

static char buffer[8];
static struct iovec part = {buffer, sizeof buffer};
static int pipe_ends[2];

static void sleep_in_read(void) {
    read(fd, buffer, 8);
}

static void sleep_in_readv(void) {
    readv(fd, &part, 1);
}

static void sleep_in_recv(void) {
    recv(fd, buffer, 8, 0);
}

static void sleep_in_recvfrom(void) {
    recvfrom(fd, buffer, 8, 0, NULL, NULL);
}

static void sleep_in_recvmsg(void) {
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    recvmsg(fd, &message, 0);
}

static void sleep_in_recvmmsg(void) {
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    recvmmsg(fd, &message, 1, 0, NULL);
}

static void sleep_in_splice(void) {
    splice(fd, NULL, pipe_ends[1], NULL, 8, 0);
}

static void sleep_in_accept(void) {
    accept(fd, NULL, NULL);
}

static void sleep_in_accept4(void) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    accept4(fd, (struct sockaddr *)&address, &bytes, SOCK_CLOEXEC);
}

static const struct sleeper {
    const char *name;
    void (*sleep)(void);
} sleepers[] = {
    {"read", sleep_in_read},         {"readv", sleep_in_readv},     {"recv", sleep_in_recv},
    {"recvfrom", sleep_in_recvfrom}, {"recvmsg", sleep_in_recvmsg}, {"recvmmsg", sleep_in_recvmmsg},
    {"splice", sleep_in_splice},     {"accept", sleep_in_accept},   {"accept4", sleep_in_accept4},
};

static pid_t sleeper_tid;
static int cleaned_up;

static void clean_up(void *unused) {
    (void)unused;
    cleaned_up++;
    int inner = socket(AF_INET, SOCK_STREAM, 0); // hooks work in a clean-up handler
    cleaned_up += view_is_tracked(inner);
    close(inner);
}

static void *sleep_here(void *sleeper) {
    int local_type;
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &local_type);
    pthread_cleanup_push(clean_up, NULL);
    __atomic_store_n(&sleeper_tid, sys_gettid(), __ATOMIC_RELEASE);
    ((const struct sleeper *)sleeper)->sleep();
    pthread_cleanup_pop(0);
    return NULL;
}

static pthread_t start_sleeping(const struct sleeper *sleeper) {
    pthread_t thread;
    sleeper_tid = 0;
    assert_int_equal(pthread_create(&thread, NULL, sleep_here, (void *)(uintptr_t)sleeper), 0);
    while (__atomic_load_n(&sleeper_tid, __ATOMIC_ACQUIRE) == 0)
        sys_sleep_ms(1);
    rig_wait_asleep(sleeper_tid);
    return thread;
}

static void a_sleeping_thread_is_cancelled(void **state) {
    const struct sleeper *sleeper = *state;
    int pair[2];
    void *result = NULL;
    bool accepts = strncmp(sleeper->name, "accept", 6) == 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    fd = accepts ? rig_listen() : pair[0];
    cleaned_up = 0;
    pthread_t thread = start_sleeping(sleeper);
    assert_int_equal(pthread_cancel(thread), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    assert_int_equal(cleaned_up, 2);
    assert_true(view_is_tracked(fd));
    close(pair[1]);
    if (!accepts) { // what it slept on is whole
        assert_int_equal(recv(fd, buffer, 1, 0), 0);
        assert_int_equal(view_record(fd)->eof_call, CALL_RECV);
        close(fd);
    } else {
        close(fd);
        close(pair[0]);
    }
}

// A pending cancellation is taken at the next cancellation point, which each of these is by POSIX.
static void *cancelled_in_close(void *which) {
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pthread_cleanup_push(clean_up, NULL);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cancel(pthread_self());
    read(pair[0], buffer, 0); // not now
    cleaned_up = 10;
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    switch ((int)(intptr_t)which) {
    case 0:
        close(pair[0]);
        break;
    case 1:
        read(pair[0], buffer, 0);
        break;
    case 2:
        recv(pair[0], buffer, 1, MSG_DONTWAIT);
        break;
    default:
        connect(pair[0], NULL, 0);
        break;
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void a_pending_cancellation_is_taken_in_a_wrapper(void **state) {
    (void)state;
    for (intptr_t which = 0; which < 4; which++) {
        pthread_t thread;
        void *result = NULL;
        pthread_create(&thread, NULL, cancelled_in_close, (void *)which);
        pthread_join(thread, &result);
        assert_ptr_equal(result, PTHREAD_CANCELED);
        assert_int_equal(cleaned_up, 12);
    }
}

static void *not_cancelled(void *unused) {
    pthread_cancel(pthread_self());
    int one = socket(AF_INET, SOCK_STREAM, 0), two = dup(one); // no cancellation points
    shutdown(one, SHUT_RDWR);
    dup2(one, two);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    close(one);
    close(two);
    return unused;
}

static void what_is_no_cancellation_point_stays_none(void **state) {
    (void)state;
    pthread_t thread;
    void *result = NULL;
    pthread_create(&thread, NULL, not_cancelled, buffer);
    pthread_join(thread, &result);
    assert_ptr_equal(result, buffer);
}

static void *cancelled_asynchronously(void *unused) {
    (void)unused;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    __atomic_store_n(&sleeper_tid, sys_gettid(), __ATOMIC_RELEASE);
    recv(fd, buffer, 8, 0);
    return NULL;
}

static void an_asynchronous_cancellation_in_a_wrapper_is_taken(void **state) {
    (void)state;
    int pair[2];
    void *result = NULL;
    pthread_t thread;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    fd = pair[0];
    sleeper_tid = 0;
    pthread_create(&thread, NULL, cancelled_asynchronously, NULL);
    while (__atomic_load_n(&sleeper_tid, __ATOMIC_ACQUIRE) == 0)
        sys_sleep_ms(1);
    rig_wait_asleep(sleeper_tid);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    close(pair[0]);
    close(pair[1]);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, NULL, 0);
    enum {
        SLEEPERS = sizeof sleepers / sizeof *sleepers
    };
    if (pipe(pipe_ends) != 0)
        return 1;
    struct CMUnitTest tests[SLEEPERS + 3] = {
        cmocka_unit_test(a_pending_cancellation_is_taken_in_a_wrapper),
        cmocka_unit_test(what_is_no_cancellation_point_stays_none),
        cmocka_unit_test(an_asynchronous_cancellation_in_a_wrapper_is_taken),
    };
    for (int i = 0; i < SLEEPERS; i++)
        tests[3 + i] = (struct CMUnitTest){sleepers[i].name, a_sleeping_thread_is_cancelled, NULL,
                                           NULL, (void *)(uintptr_t)&sleepers[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
