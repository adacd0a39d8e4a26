// base/owner: whose memory is this?
#include "base/owner.h"
#include "unit.h"
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

ISOLATED(nobody_owns_it_before_the_claim) {
    assert_int_equal(owner_pid(), 0);
    assert_false(owner_was_forked());
    assert_false(owner_is_other_process());
}

ISOLATED(who_claims_it_owns_it) {
    owner_claim();
    assert_int_equal(owner_pid(), getpid());
    assert_false(owner_was_forked());
    assert_false(owner_is_other_process());
}

static void is_a_fork(void *parent) {
    assert_true(owner_was_forked());
    assert_false(owner_is_other_process()); // its memory is its own
    assert_int_equal(owner_pid(), *(int *)parent);
    owner_claim();
    assert_false(owner_was_forked());
    assert_int_equal(owner_pid(), getpid());
}

ISOLATED(a_fork_is_noticed_until_the_child_claims) {
    int pid = getpid();
    owner_claim();
    child_must_pass(is_a_fork, &pid);
    assert_false(owner_was_forked()); // the child's claim is not ours
}

static void forks_again(void *unused) {
    (void)unused;
    int pid = getpid();
    owner_claim();
    child_must_pass(is_a_fork, &pid);
}

ISOLATED(a_grandchild_is_noticed_too) {
    owner_claim();
    child_must_pass(forks_again, NULL);
}

ISOLATED(a_fork_by_the_bare_system_call_is_noticed) {
    owner_claim();
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); // no atfork handler runs
    if (pid == 0)
        _exit(owner_was_forked() ? 0 : 1);
    int status;
    assert_int_equal(waitpid((pid_t)pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

ISOLATED(a_vfork_child_is_another_process_by_its_depth) {
    owner_claim();
    owner_vfork_depth++;
    assert_true(owner_is_other_process());
    owner_vfork_depth++; // vfork in a vfork child
    owner_vfork_depth--;
    assert_true(owner_is_other_process());
    owner_vfork_depth--;
    assert_false(owner_is_other_process());
}

static volatile int answer = -1;

// It runs beside the sanitizer's idea of a thread.
__attribute__((no_sanitize("thread"))) static int look(void *unused) {
    (void)unused;
    answer = owner_is_other_process();
    return 0;
}

static int answer_of_a_child_in_our_memory(void) {
    static char stack[65536] __attribute__((aligned(16)));
    answer = -1;
    pid_t pid = clone(look, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return answer;
}

ISOLATED(a_child_in_our_memory_is_told_apart_once_it_is_expected) {
    owner_claim();
    owner_expect_shared_memory();
    assert_int_equal(answer_of_a_child_in_our_memory(), 1);
    assert_false(owner_is_other_process());
}

ISOLATED(who_expects_shared_memory_owns_it_where_nobody_did) {
    owner_expect_shared_memory();
    assert_int_equal(owner_pid(), getpid());
    assert_int_equal(answer_of_a_child_in_our_memory(), 1);
    assert_false(owner_is_other_process());
}

ISOLATED(a_vfork_child_that_expects_shared_memory_claims_nothing) {
    owner_vfork_depth++;
    owner_expect_shared_memory();
    owner_vfork_depth--;
    assert_int_equal(owner_pid(), 0);
}

ISOLATED(in_a_sandbox_everything_is_passed_on_until_it_is_taken_back) {
    owner_claim();
    owner_expect_shared_memory();
    owner_set_sandboxed(true);
    assert_true(owner_is_sandboxed());
    assert_true(owner_is_other_process());
    owner_set_sandboxed(false);
    assert_false(owner_is_sandboxed());
    assert_false(owner_is_other_process());
    assert_int_equal(answer_of_a_child_in_our_memory(), 1); // as expected before
}

ISOLATED(forks_are_noticed_from_the_first_claim_on) {
    assert_false(owner_notices_forks());
    owner_claim();
    assert_true(owner_notices_forks());
}

static void is_no_other_process(void *unused) {
    (void)unused;
    assert_false(owner_is_other_process());
    owner_claim();
    assert_false(owner_is_other_process());
}

ISOLATED(a_forked_child_is_no_other_process_even_if_shared_memory_is_expected) {
    owner_claim();
    owner_expect_shared_memory();
    child_must_pass(is_no_other_process, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_owns_it_before_the_claim),
        cmocka_unit_test(who_claims_it_owns_it),
        cmocka_unit_test(a_fork_is_noticed_until_the_child_claims),
        cmocka_unit_test(a_grandchild_is_noticed_too),
        cmocka_unit_test(a_fork_by_the_bare_system_call_is_noticed),
        cmocka_unit_test(a_vfork_child_is_another_process_by_its_depth),
        cmocka_unit_test(a_child_in_our_memory_is_told_apart_once_it_is_expected),
        cmocka_unit_test(who_expects_shared_memory_owns_it_where_nobody_did),
        cmocka_unit_test(a_vfork_child_that_expects_shared_memory_claims_nothing),
        cmocka_unit_test(in_a_sandbox_everything_is_passed_on_until_it_is_taken_back),
        cmocka_unit_test(forks_are_noticed_from_the_first_claim_on),
        cmocka_unit_test(a_forked_child_is_no_other_process_even_if_shared_memory_is_expected),
    };
    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
