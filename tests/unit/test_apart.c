// base/apart: files can be read where the process has no descriptor left. The judge is the kernel.
#include "base/apart.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    LIMIT = 64
};

struct seen {
    int times;
    pid_t tid;
    int opened; // an fd, or -errno
    unsigned standard, others;
};

static unsigned count_fds(int first, int last) {
    unsigned count = 0;
    for (int fd = first; fd <= last; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

// errno is the caller's own here: thread-local variables are shared.
static void look_around(void *context) {
    struct seen *seen = context;
    seen->times++;
    seen->tid = (pid_t)syscall(SYS_gettid);
    seen->standard = count_fds(0, 2);
    seen->others = count_fds(3, LIMIT);
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    seen->opened = fd < 0 ? -errno : fd;
    char byte;
    if (fd >= 0 && read(fd, &byte, 1) != 1)
        seen->opened = -EIO;
    close(fd);
}

static void use_up_descriptors(void) {
    struct rlimit limit = {LIMIT, LIMIT};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
        ;
    assert_int_equal(errno, EMFILE);
}

static unsigned threads(void) {
    struct stat tasks; // one link a thread, and two (proc_task_getattr in fs/proc/base.c)
    assert_int_equal(stat("/proc/self/task", &tasks), 0);
    return (unsigned)tasks.st_nlink - 2;
}

static void where_a_descriptor_is_free_work_is_done_here(void **state) {
    (void)state;
    struct seen seen = {0};
    assert_int_equal(apart_run(look_around, &seen), 0);
    assert_int_equal(seen.times, 1);
    assert_int_equal(seen.tid, syscall(SYS_gettid));
    assert_true(seen.opened >= 0);
}

ISOLATED(where_none_is_free_a_thread_has_a_table_of_its_own) {
    struct seen seen = {0};
    unsigned threads_before = threads();
    use_up_descriptors();
    unsigned standard = count_fds(0, 2), all = count_fds(0, LIMIT);
    assert_int_equal(apart_run(look_around, &seen), 0);
    assert_int_equal(threads(), threads_before); // gone at once
    assert_int_equal(seen.times, 1);
    assert_int_not_equal(seen.tid, syscall(SYS_gettid));
    assert_int_equal(seen.opened, 3);
    assert_int_equal(seen.standard, standard);
    assert_int_equal(seen.others, 0);
    assert_int_equal(count_fds(0, LIMIT), all);
}

// --- what the program closes meanwhile -----------------------------------------------------------

struct connection {
    int ends[2];
    atomic_bool has_begun;
    bool is_told;
};

static void *closes_when_it_has_begun(void *context) {
    struct connection *connection = context;
    while (!atomic_load(&connection->has_begun))
        sched_yield();
    close(connection->ends[1]);
    return NULL;
}

// On the descriptor that the thread has for stdin.
static void waits_for_the_end(void *context) {
    struct connection *connection = context;
    struct pollfd end = {.fd = 0, .events = POLLRDHUP};
    atomic_store(&connection->has_begun, true);
    connection->is_told = poll(&end, 1, 5000) == 1 && (end.revents & POLLRDHUP);
}

ISOLATED(what_another_thread_closes_meanwhile_is_closed) {
    struct connection connection = {.is_told = false};
    pthread_t closer;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, connection.ends), 0);
    assert_int_equal(dup2(connection.ends[0], 0), 0);
    use_up_descriptors();
    assert_int_equal(pthread_create(&closer, NULL, closes_when_it_has_begun, &connection), 0);
    assert_int_equal(apart_run(waits_for_the_end, &connection), 0);
    assert_int_equal(pthread_join(closer, NULL), 0);
    assert_true(connection.is_told);
}

// --- where no thread can be made -----------------------------------------------------------------

static void forbid(long number) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), // seccomp_data.nr
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

static void assert_done_here_without(long number) {
    struct seen seen = {0};
    use_up_descriptors();
    unsigned all = count_fds(0, LIMIT);
    forbid(number);
    errno = EXDEV;
    assert_int_equal(apart_run(look_around, &seen), -EMFILE);
    assert_int_equal(seen.times, 1);
    assert_int_equal(seen.tid, syscall(SYS_gettid));
    assert_int_equal(seen.opened, -EMFILE);
    assert_int_equal(count_fds(0, LIMIT), all);
}

ISOLATED(without_a_thread_work_is_done_here_and_it_is_said) {
    assert_done_here_without(SYS_clone);
}

ISOLATED(without_a_table_of_its_own_nothing_of_the_programs_is_closed) {
    assert_done_here_without(SYS_close_range);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_a_descriptor_is_free_work_is_done_here),
        cmocka_unit_test(where_none_is_free_a_thread_has_a_table_of_its_own),
        cmocka_unit_test(what_another_thread_closes_meanwhile_is_closed),
        cmocka_unit_test(without_a_thread_work_is_done_here_and_it_is_said),
        cmocka_unit_test(without_a_table_of_its_own_nothing_of_the_programs_is_closed),
    };
    return cmocka_run_group_tests_name("apart", tests, NULL, NULL);
}
