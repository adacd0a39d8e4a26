// base/guard: it nests, is seen by handlers, and is given back when a handler jumps out of the
// frame that holds it.
#include "base/guard.h"
#include "unit.h"
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>

static sigjmp_buf away;
static volatile int held_in_handler;

static void look(int signal) {
    (void)signal;
    held_in_handler = guard_held();
}

static void look_and_jump(int signal) {
    look(signal);
    siglongjmp(away, 1);
}

static void handle(void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
}

static void use_alternate_stack(void) {
    static char memory[64 << 10];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    assert_int_equal(sigaltstack(&stack, NULL), 0);
}

__attribute__((noinline)) static void interrupted(void) {
    guard_enter();
    raise(SIGUSR1);
    guard_leave();
}

static void it_nests(void **state) {
    (void)state;
    assert_false(guard_held());
    guard_enter();
    guard_enter();
    guard_leave();
    assert_int_equal(guard_depth, 1);
    guard_leave();
    assert_false(guard_held());
}

static void a_handler_sees_it_held(int flags) {
    handle(look, flags);
    held_in_handler = 0;
    interrupted();
    assert_true(held_in_handler);
    assert_false(guard_held());
}

static void a_handler_sees_it_on_the_same_stack(void **state) {
    (void)state;
    a_handler_sees_it_held(0);
}

static void a_handler_sees_it_from_its_own_stack(void **state) {
    (void)state;
    use_alternate_stack();
    a_handler_sees_it_held(SA_ONSTACK);
}

static void jump_out(int flags) {
    handle(look_and_jump, flags);
    if (sigsetjmp(away, 1) == 0)
        interrupted();
    assert_true(held_in_handler);
    assert_int_equal(guard_depth, 1);
    assert_false(guard_held());
    assert_int_equal(guard_depth, 0);
    guard_enter(); // as before
    assert_int_equal(guard_depth, 1);
    guard_leave();
}

static void a_jump_out_of_its_frame_gives_it_back(void **state) {
    (void)state;
    jump_out(0);
    use_alternate_stack();
    jump_out(SA_ONSTACK);
}

static void take_and_jump(int signal) {
    (void)signal;
    guard_enter(); // what this handler called was interrupted by the jump
    siglongjmp(away, 1);
}

static void a_jump_from_the_alternate_stack_gives_back_what_was_held_there(void **state) {
    (void)state;
    use_alternate_stack();
    handle(take_and_jump, SA_ONSTACK);
    if (sigsetjmp(away, 1) == 0)
        raise(SIGUSR1);
    assert_false(guard_held());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_nests),
        cmocka_unit_test(a_handler_sees_it_on_the_same_stack),
        cmocka_unit_test(a_handler_sees_it_from_its_own_stack),
        cmocka_unit_test(a_jump_out_of_its_frame_gives_it_back),
        cmocka_unit_test(a_jump_from_the_alternate_stack_gives_back_what_was_held_there),
    };
    return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
