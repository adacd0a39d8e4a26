// Children that share the parent's memory (vfork, posix_spawn, clone with CLONE_VM): whatever they
// close, the parent's records stand. And children of fork: theirs are inherited, and their own.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SOCKETS = 6
};

struct sockets {
    int fd[SOCKETS];
    uint64_t inode[SOCKETS];
    uint64_t born, closed;
};

static struct sockets open_sockets(void) {
    struct sockets s;
    for (int i = 0; i < SOCKETS; i++) {
        s.fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        s.inode[i] = view_inode(s.fd[i]);
    }
    s.born = view_ledger()->counters.born;
    s.closed = view_ledger()->counters.closed;
    return s;
}

static void assert_untouched(const struct sockets *s) {
    for (int i = 0; i < SOCKETS; i++) {
        assert_int_equal(view_inode(s->fd[i]), s->inode[i]);
        assert_true(view_is_tracked(s->fd[i]));
    }
    assert_int_equal(view_ledger()->counters.born, s->born);
    assert_int_equal(view_ledger()->counters.closed, s->closed);
    assert_int_equal(view_ledger()->pid, getpid());
}

static void close_sockets(struct sockets *s) {
    for (int i = 0; i < SOCKETS; i++)
        assert_int_equal(close(s->fd[i]), 0);
    assert_int_equal(view_ledger()->counters.closed, s->closed + SOCKETS);
}

static int wait_for(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

// All that a child between vfork and exec may do to descriptors (CPython's subprocess, libuv, the
// JDK's jspawnhelper), and some births.
static void churn_fds(const struct sockets *s) {
    close(s->fd[0]);
    dup2(0, s->fd[1]);
    dup3(0, s->fd[2], O_CLOEXEC);
    syscall(SYS_close, s->fd[3]);
    close_range((unsigned)s->fd[4], (unsigned)s->fd[4], 0);
    shutdown(s->fd[5], SHUT_RDWR);
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    dup2(fresh, s->fd[5]);
    fcntl(fresh, F_DUPFD, 100);
    closefrom(s->fd[5]);
}

static void closes_in_a_vfork_child_leave_the_parents_records(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    pid_t pid = vfork();
    if (pid == 0) {
        churn_fds(&s);
        _exit(7);
    }
    assert_int_equal(wait_for(pid), 7 << 8);
    assert_untouched(&s);
    close_sockets(&s);
}

static void a_vfork_child_whose_exec_fails_exits_silently(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    pid_t pid = vfork();
    if (pid == 0) {
        close(s.fd[0]);
        execl("/nonexistent/program", "program", (char *)NULL);
        close(s.fd[1]);
        _exit(errno == ENOENT ? 8 : 9);
    }
    assert_int_equal(wait_for(pid), 8 << 8);
    assert_untouched(&s);
    close_sockets(&s);
}

static void a_vfork_child_that_execs_keeps_the_parents_records(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    pid_t pid = vfork();
    if (pid == 0) {
        churn_fds(&s);
        execlp("true", "true", (char *)NULL);
        _exit(9);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_untouched(&s);
    close_sockets(&s);
}

static void a_vfork_in_a_vfork_child_counts_itself_out_again(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    pid_t pid = vfork();
    if (pid == 0) {
        pid_t inner = vfork();
        if (inner == 0) {
            close(s.fd[0]);
            _exit(3);
        }
        close(s.fd[1]);
        int status;
        waitpid(inner, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    }
    assert_int_equal(wait_for(pid), 4 << 8);
    assert_untouched(&s);
    close_sockets(&s);
}

static int run_limited(void) {
    // No process may be made: vfork fails with EAGAIN, also for root, whose limit is lifted by its
    // capabilities only outside of a seccomp filter or a cgroup; so ask as another user.
    struct rlimit64 {
        uint64_t now, max;
    } limit = {0, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (setresuid(65534, 65534, 65534) != 0 ||
        sys_call(SYS_prlimit64, 0, 6 /* RLIMIT_NPROC */, (long)&limit, 0, 0, 0) != 0)
        return RIG_SKIPPED;
    errno = 0;
    pid_t pid = vfork();
    if (pid == 0)
        _exit(0);
    int failed = errno;
    if (pid > 0)
        return RIG_SKIPPED;
    close(fd);
    printf("%d %d\n", pid, failed);
    return view_ledger() && view_number(fd) ? 1 : 0; // hooks work on: the count is where it was
}

static void a_failing_vfork_says_so_and_hooks_work_on(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "limited", BARE, NULL);
    if (result.status == RIG_SKIPPED << 8)
        skip();
    assert_string_equal(result.out, "-1 11\n"); // EAGAIN
    rig_assert_same_as_bare("limited", NULL, NULL);
}

// The tracee of the test below: its first vfork child dies before it has run an instruction, as one
// does that the OOM killer takes.
static int run_killed_in_vfork(void) {
    struct sockets s = open_sockets();
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        return RIG_SKIPPED;
    raise(SIGSTOP);
    int status = 0;
    pid_t pid = vfork();
    if (pid == 0)
        _exit(9);
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status))
        return RIG_SKIPPED;
    pid = vfork(); // and this one must be seen as what it is
    if (pid == 0) {
        churn_fds(&s);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_untouched(&s);
    return 0;
}

static int trace_killed_in_vfork(void) {
    int status = 0;
    bool killed = false;
    pid_t tracee = fork();
    if (tracee == 0)
        exit(run_killed_in_vfork());
    waitpid(tracee, &status, 0);
    if (!WIFSTOPPED(status)) // no ptrace here
        return RIG_SKIPPED;
    ptrace(PTRACE_SETOPTIONS, tracee, NULL, PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, tracee, NULL, NULL);
    while (waitpid(tracee, &status, 0) == tracee && WIFSTOPPED(status)) {
        long number = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
        unsigned long child;
        if (status >> 16 == PTRACE_EVENT_VFORK &&
            ptrace(PTRACE_GETEVENTMSG, tracee, NULL, &child) == 0) {
            waitpid((pid_t)child, NULL, __WALL); // stopped before its first instruction
            if (killed) {
                ptrace(PTRACE_DETACH, (pid_t)child, NULL, NULL);
            } else {
                kill((pid_t)child, SIGKILL);
                waitpid((pid_t)child, NULL, __WALL);
            }
            killed = true;
        }
        ptrace(PTRACE_CONT, tracee, NULL, number);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void a_vfork_child_killed_at_once_leaves_the_count_as_it_was(void **state) {
    (void)state;
    struct rig_result result;
    rig_run(&result, "killed", PRELOADED, NULL);
    if (result.status == RIG_SKIPPED << 8)
        skip();
    assert_int_equal(result.status, 0);
}

// --- many threads -------------------------------------------------------------------------------

static struct sockets shared;

static void *vfork_often(void *unused) {
    (void)unused;
    for (int i = 0; i < 25; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            churn_fds(&shared);
            _exit(0);
        }
        wait_for(pid);
    }
    return NULL;
}

static void *open_and_close_often(void *stop) {
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (!view_is_tracked(fd))
            return (void *)1; // another thread's vfork child must not blind this one
        close(fd);
    }
    return NULL;
}

static void vfork_in_threads_blinds_no_other_thread(void **state) {
    (void)state;
    shared = open_sockets();
    int stop = 0;
    pthread_t forkers[2], worker;
    void *blind;
    pthread_create(&worker, NULL, open_and_close_often, &stop);
    for (int i = 0; i < 2; i++)
        pthread_create(&forkers[i], NULL, vfork_often, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(forkers[i], NULL);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(worker, &blind);
    assert_null(blind);
    for (int i = 0; i < SOCKETS; i++)
        assert_true(view_is_tracked(shared.fd[i]));
    assert_int_equal(view_ledger()->counters.closed_unseen, 0);
    for (int i = 0; i < SOCKETS; i++)
        close(shared.fd[i]);
}

// --- posix_spawn and clone ----------------------------------------------------------------------

static void posix_spawn_with_file_actions_leaves_the_records(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    extern char **environ;
    char *argv[] = {(char *)"true", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, s.fd[0]);
    posix_spawn_file_actions_adddup2(&actions, 0, s.fd[1]);
    posix_spawn_file_actions_addopen(&actions, s.fd[2], "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&actions, s.fd[3]);
    pid_t pid;
    assert_int_equal(posix_spawnp(&pid, "true", &actions, NULL, argv, environ), 0);
    assert_int_equal(wait_for(pid), 0);
    assert_int_equal(posix_spawn(&pid, "/nonexistent", &actions, NULL, argv, environ), ENOENT);
    posix_spawn_file_actions_destroy(&actions);
    assert_untouched(&s);
    close_sockets(&s);
}

static void popen_and_system_leave_the_records(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    char line[16] = "";
    FILE *pipe = popen("echo hello", "r");
    assert_non_null(fgets(line, sizeof line, pipe));
    assert_string_equal(line, "hello\n");
    assert_int_equal(pclose(pipe), 0);
    assert_int_equal(system("exit 5"), 5 << 8);
    assert_untouched(&s);
    close_sockets(&s);
}

static int churn_in_clone(void *s) {
    churn_fds(s);
    return 6;
}

static void closes_in_a_clone_that_shares_memory_leave_the_records(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    static char stack[256 << 10] __attribute__((aligned(16)));
    pid_t pid = clone(churn_in_clone, stack + sizeof stack, CLONE_VM | SIGCHLD, &s);
    assert_true(pid > 0);
    assert_int_equal(wait_for(pid), 6 << 8);
    assert_untouched(&s);
    close_sockets(&s);
}

struct clone_ids {
    int parent_tid, child_tid;
};

static int see_ids(void *ids) {
    return ((struct clone_ids *)ids)->child_tid == sys_gettid() ? 5 : 4;
}

static void clone_passes_all_its_optional_arguments(void **state) {
    (void)state;
    struct clone_ids ids = {0};
    static char stack[64 << 10] __attribute__((aligned(16)));
    pid_t pid = clone(see_ids, stack + sizeof stack,
                      CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, &ids,
                      &ids.parent_tid, NULL, &ids.child_tid);
    assert_true(pid > 0);
    assert_int_equal(wait_for(pid), 5 << 8);
    assert_int_equal(ids.parent_tid, pid);
}

// --- fork ---------------------------------------------------------------------------------------

// In the child; its exit status tells which line failed.
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sys_call(SYS_exit_group, __LINE__ & 255, 0, 0, 0, 0, 0);                               \
    } while (0)

static void check_inherited(const struct sockets *s) {
    const struct ledger_header *header = view_ledger();
    for (int i = 0; i < SOCKETS; i++) {
        CHECK(view_is_tracked(s->fd[i]));
        CHECK(view_record(s->fd[i])->process < header->process);
    }
    CHECK(header->pid == (uint32_t)getpid());
    CHECK(header->parent_pid == (uint32_t)getppid());
    CHECK(header->counters.inherited >= SOCKETS);
    CHECK(header->counters.closed == 0);
    CHECK(close(s->fd[0]) == 0 && view_number(s->fd[0]) == 0);
    CHECK(header->counters.closed == 1);
    int own = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(view_is_tracked(own) && view_record(own)->process == header->process);
    CHECK(header->counters.born == 1);
}

static void a_forked_child_inherits_and_counts_from_zero(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    pid_t pid = fork();
    if (pid == 0) {
        check_inherited(&s);
        sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_untouched(&s);
    close_sockets(&s);
}

// No atfork handler runs; the first hook in the child finds out.
static void check_after_quiet_fork(const struct sockets *s) {
    int first = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(view_is_tracked(first));
    close(first);
    const struct ledger_header *header = view_ledger();
    CHECK(header->pid == (uint32_t)getpid());
    CHECK(view_is_tracked(s->fd[0]) && view_record(s->fd[0])->process < header->process);
    CHECK(header->counters.born == 1 && header->counters.closed == 1);
    close(s->fd[0]);
    CHECK(header->counters.closed == 2);
}

static void a_child_of__Fork_inherits(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    pid_t pid = _Fork();
    if (pid == 0) {
        check_after_quiet_fork(&s);
        sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_untouched(&s);
    close_sockets(&s);
}

static void a_child_of_raw_clone_inherits(void **state) {
    (void)state;
    struct sockets s = open_sockets();
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) {
        check_after_quiet_fork(&s);
        sys_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
    assert_int_equal(wait_for((pid_t)pid), 0);
    assert_untouched(&s);
    close_sockets(&s);
}

// After a clone with CLONE_VM every hook asks getpid: a fork later must not look like such a child.
static void fork_after_a_shared_memory_clone_still_tracks(void **state) {
    closes_in_a_clone_that_shares_memory_leave_the_records(state);
    a_forked_child_inherits_and_counts_from_zero(state);
    a_child_of__Fork_inherits(state);
    closes_in_a_vfork_child_leave_the_parents_records(state);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {{"limited", run_limited},
                                                    {"killed", trace_killed_in_vfork}};
    rig_start(argc, argv, scenarios, 2);
    close(socket(AF_INET, SOCK_STREAM, 0));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closes_in_a_vfork_child_leave_the_parents_records),
        cmocka_unit_test(a_vfork_child_whose_exec_fails_exits_silently),
        cmocka_unit_test(a_vfork_child_that_execs_keeps_the_parents_records),
        cmocka_unit_test(a_vfork_in_a_vfork_child_counts_itself_out_again),
        cmocka_unit_test(a_failing_vfork_says_so_and_hooks_work_on),
        cmocka_unit_test(a_vfork_child_killed_at_once_leaves_the_count_as_it_was),
        cmocka_unit_test(vfork_in_threads_blinds_no_other_thread),
        cmocka_unit_test(posix_spawn_with_file_actions_leaves_the_records),
        cmocka_unit_test(popen_and_system_leave_the_records),
        cmocka_unit_test(a_forked_child_inherits_and_counts_from_zero),
        cmocka_unit_test(a_child_of__Fork_inherits),
        cmocka_unit_test(a_child_of_raw_clone_inherits),
        cmocka_unit_test(closes_in_a_clone_that_shares_memory_leave_the_records),
        cmocka_unit_test(clone_passes_all_its_optional_arguments),
        cmocka_unit_test(fork_after_a_shared_memory_clone_still_tracks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
