// track/stacks, when another thread interns the same stack at the same time. Between looking a
// stack up and entering it, its frames are resolved: there this test, which is track/modules.h
// itself, lets the other thread run.
#include "base/guard.h"
#include "fake_unwinder.h"
#include "ledger/ledger.h"
#include "track/modules.h"
#include "track/stacks.h"
#include "unit.h"
#include <pthread.h>

static bool interrupt; // at the next frame
static uint32_t others_id;

static void *capture_the_same(void *unused) {
    (void)unused;
    others_id = stack_capture(fake_stack_set(1, 10, 0));
    return NULL;
}

uint64_t module_frame(const void *address) {
    if (interrupt) {
        pthread_t other;
        interrupt = false;
        assert_int_equal(pthread_create(&other, NULL, capture_the_same, NULL), 0);
        pthread_join(other, NULL);
    }
    return LEDGER_FRAME(0, (uintptr_t)address);
}

uint64_t module_unloads(void) {
    return 0;
}

void module_unloaded(void) {}

ISOLATED(the_slower_of_two_threads_takes_the_quicker_ones_id) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
    void *caller = fake_stack_set(1, 10, 0);
    interrupt = true;
    uint32_t id = stack_capture(caller);
    assert_false(interrupt);
    assert_int_not_equal(id, LEDGER_NO_STACK);
    assert_int_equal(id, others_id);
    assert_int_equal(stack_capture(caller), id);
    assert_int_equal(ledger.stacks[id].depth, 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_slower_of_two_threads_takes_the_quicker_ones_id),
    };
    return cmocka_run_group_tests_name("stacks_race", tests, NULL, NULL);
}
