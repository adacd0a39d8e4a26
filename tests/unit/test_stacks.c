// track/stacks: each distinct backtrace once. The unwinder is a fake.
#include "base/guard.h"
#include "fake_unwinder.h"
#include "ledger/ledger.h"
#include "track/modules.h"
#include "track/stacks.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

enum {
    DEPTH = 32,
    THREADS = 4,
    DISTINCT = 3000
};

static void make(void) {
    assert_int_equal(ledger_create("", DEPTH, NULL), 1);
}

static const struct ledger_stack *stack(uint32_t id) {
    assert_in_range(id, 1, ledger.header->regions[LEDGER_STACKS].used - 1);
    return &ledger.stacks[id];
}

static uint64_t frame(uint32_t id, int index) {
    return ledger.frames[stack(id)->first_frame + (uint32_t)index];
}

ISOLATED(a_stack_is_kept_frame_by_frame_from_the_caller_on) {
    make();
    void *caller = fake_stack_set(2, 5, 0);
    uint32_t id = stack_capture(caller);
    assert_int_equal(stack(id)->depth, 5);
    assert_int_equal(stack(id)->flags, 0);
    for (int i = 0; i < 5; i++) // in no module: plain addresses
        assert_int_equal(frame(id, i), (uintptr_t)fake_stack[2 + i]);
}

ISOLATED(the_same_stack_has_the_same_id) {
    make();
    void *caller = fake_stack_set(2, 5, 0);
    uint32_t id = stack_capture(caller);
    uint64_t frames = ledger.header->regions[LEDGER_FRAMES].used;
    fake_stack_set(4, 5, 0); // by another way through our own code
    assert_int_equal(stack_capture(caller), id);
    assert_int_equal(ledger.header->regions[LEDGER_STACKS].used, 2);
    assert_int_equal(ledger.header->regions[LEDGER_FRAMES].used, frames);
}

ISOLATED(stacks_that_differ_in_one_frame_are_two) {
    make();
    void *caller = fake_stack_set(1, 20, 0);
    uint32_t id = stack_capture(caller);
    for (int i = 1; i <= 20; i++) {
        void *was = fake_stack[i];
        fake_stack[i] = (char *)was + 1;
        assert_int_not_equal(stack_capture(fake_stack[1]), id);
        fake_stack[i] = was;
    }
    fake_stack_depth--;
    assert_int_not_equal(stack_capture(caller), id);
    assert_int_equal(ledger.header->regions[LEDGER_STACKS].used, 1 + 1 + 20 + 1);
}

ISOLATED(two_frames_that_changed_places_are_another_stack) {
    make();
    void *caller = fake_stack_set(0, 12, 0);
    uint32_t id = stack_capture(caller);
    for (int i = 1; i < 11; i++)
        for (int k = i + 1; k < 12; k++) {
            void *was = fake_stack[i];
            fake_stack[i] = fake_stack[k], fake_stack[k] = was;
            assert_int_not_equal(stack_capture(caller), id);
            fake_stack[k] = fake_stack[i], fake_stack[i] = was;
        }
}

ISOLATED(a_stack_as_deep_as_the_limit_is_whole) {
    make();
    uint32_t id = stack_capture(fake_stack_set(3, DEPTH, 0));
    assert_int_equal(stack(id)->depth, DEPTH);
    assert_int_equal(stack(id)->flags, 0);
}

ISOLATED(a_deeper_stack_is_cut_at_the_outer_end_and_says_so) {
    make();
    uint32_t id = stack_capture(fake_stack_set(3, DEPTH + 1, 0));
    assert_int_equal(stack(id)->depth, DEPTH);
    assert_int_equal(stack(id)->flags, STACK_DEPTH_REACHED);
    assert_int_equal(frame(id, 0), (uintptr_t)fake_stack[3]);
    assert_int_equal(frame(id, DEPTH - 1), (uintptr_t)fake_stack[3 + DEPTH - 1]);
}

ISOLATED(the_depth_may_be_1_or_128) {
    assert_int_equal(ledger_create("", 128, NULL), 1);
    uint32_t id = stack_capture(fake_stack_set(2, 200, 0));
    assert_int_equal(stack(id)->depth, 128);
    ledger.header->stack_depth = 1;
    id = stack_capture(fake_stack_set(2, 200, 0));
    assert_int_equal(stack(id)->depth, 1);
    assert_int_equal(stack(id)->flags, STACK_DEPTH_REACHED);
}

ISOLATED(the_unwinder_runs_under_the_guard) {
    make();
    stack_capture(fake_stack_set(1, 5, 0));
    assert_int_equal(fake_unwinder_calls, 1);
    assert_true(fake_unwinder_was_guarded);
    assert_false(guard_held());
}

ISOLATED(under_the_guard_the_call_site_is_all) {
    make();
    void *caller = fake_stack_set(1, 5, 0);
    guard_enter();
    uint32_t id = stack_capture(caller);
    guard_leave();
    assert_int_equal(fake_unwinder_calls, 0);
    assert_int_equal(stack(id)->depth, 1);
    assert_int_equal(stack(id)->flags, STACK_CALL_SITE_ONLY);
    assert_int_equal(frame(id, 0), (uintptr_t)caller);
    assert_int_equal(ledger.header->counters.stacks_call_site, 1);
    assert_int_not_equal(stack_capture(caller), id); // the whole stack is another
}

ISOLATED(without_an_unwinder_the_call_site_is_all) {
    make();
    fake_unwinder_missing = true;
    uint32_t id = stack_capture((void *)0x1234);
    assert_int_equal(stack(id)->depth, 1);
    assert_int_equal(stack(id)->flags, STACK_CALL_SITE_ONLY);
    assert_int_equal(frame(id, 0), 0x1234);
    assert_int_equal(stack_capture((void *)0x1234), id);
    assert_int_equal(ledger.header->counters.stacks_call_site, 2);
}

ISOLATED(an_unwinder_that_stops_in_our_own_code_leaves_the_call_site) {
    make();
    fake_stack_set(3, 0, 0);
    uint32_t id = stack_capture((void *)0x1234);
    assert_int_equal(stack(id)->flags, STACK_CALL_SITE_ONLY);
    assert_int_equal(frame(id, 0), 0x1234);
    fake_stack_depth = 0; // or says nothing at all
    assert_int_equal(stack_capture((void *)0x1234), id);
    assert_false(guard_held());
}

ISOLATED(a_full_table_is_counted_and_old_stacks_are_still_found) {
    make();
    void *caller = fake_stack_set(1, 3, 0);
    uint32_t old = stack_capture(caller);
    struct ledger_region *stacks = &ledger.header->regions[LEDGER_STACKS];
    uint64_t room = stacks->reserved_bytes / sizeof(struct ledger_stack);
    ledger_take(LEDGER_STACKS, room - stacks->used, sizeof(struct ledger_stack));
    fake_stack_set(1, 3, 1);
    assert_int_equal(stack_capture(fake_stack[1]), LEDGER_NO_STACK);
    assert_int_equal(stack_capture(fake_stack[1]), LEDGER_NO_STACK);
    assert_int_equal(ledger.header->counters.stacks_lost, 2);
    fake_stack_set(1, 3, 0);
    assert_int_equal(stack_capture(caller), old);
}

ISOLATED(a_full_frame_table_is_counted_too) {
    make();
    struct ledger_region *frames = &ledger.header->regions[LEDGER_FRAMES];
    uint64_t room = frames->reserved_bytes / sizeof(uint64_t);
    ledger_take(LEDGER_FRAMES, room - frames->used - 2, sizeof(uint64_t));
    assert_int_equal(stack_capture(fake_stack_set(1, 3, 0)), LEDGER_NO_STACK);
    assert_int_equal(ledger.header->counters.stacks_lost, 1);
    assert_int_not_equal(stack_capture(fake_stack_set(1, 2, 0)), LEDGER_NO_STACK);
}

// A stack whose frame 0 is in a module: this program.
static void *make_in_this_program(void) {
    make();
    fake_stack_set(1, 3, 0);
    fake_stack[1] = (void *)make;
    return fake_stack[1];
}

// As if another file had been where the stack's frame 0 is: the module table says so.
static void rename_module_of(uint32_t id, const char *path) {
    size_t bytes = strlen(path) + 1;
    uint64_t at = ledger_take(LEDGER_STRINGS, bytes, 1);
    memcpy(ledger.strings + at, path, bytes);
    ledger.modules[LEDGER_FRAME_MODULE(frame(id, 0))].path = (uint32_t)at;
}

ISOLATED(an_unload_of_something_else_leaves_the_stack_as_it_is) {
    void *caller = make_in_this_program();
    uint32_t id = stack_capture(caller);
    for (int i = 0; i < 3; i++) {
        module_unloaded();
        assert_int_equal(stack_capture(caller), id);
        assert_int_equal(stack(id)->unloads, module_unloads());
    }
    assert_int_equal(ledger.header->regions[LEDGER_STACKS].used, 2);
}

ISOLATED(another_file_at_the_same_addresses_is_another_stack) {
    void *caller = make_in_this_program();
    uint32_t id = stack_capture(caller);
    uint32_t path = ledger.modules[LEDGER_FRAME_MODULE(frame(id, 0))].path;
    rename_module_of(id, "/other/library.so");
    module_unloaded();
    uint32_t other = stack_capture(caller);
    assert_int_not_equal(other, id);
    assert_int_equal(stack_capture(caller), other);
    assert_int_not_equal(LEDGER_FRAME_MODULE(frame(other, 0)), LEDGER_FRAME_MODULE(frame(id, 0)));

    // The first one comes back.
    rename_module_of(other, "/other/library.so");
    ledger.modules[LEDGER_FRAME_MODULE(frame(id, 0))].path = path;
    module_unloaded();
    assert_int_equal(stack_capture(caller), id);
    assert_int_equal(ledger.header->regions[LEDGER_STACKS].used, 3);
}

ISOLATED(errno_is_left_alone) {
    make();
    errno = EXDEV;
    stack_capture(fake_stack_set(1, 3, 0));
    assert_int_equal(errno, EXDEV);
}

static uint32_t ids[THREADS][DISTINCT];

static unsigned long arrived;

// A barrier that wakes nobody: who waits here runs, and goes on at the same moment as the others.
static void wait_for_all(unsigned long round) {
    __atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL);
    for (int spins = 1; __atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < round * THREADS; spins++)
        if (spins % 1000 == 0)
            sched_yield();
}

static void *intern_all(void *row) {
    for (unsigned long i = 0; i < DISTINCT; i++) {
        void *caller = fake_stack_set(1, 10, i);
        wait_for_all(i + 1); // all at the same new stack
        ((uint32_t *)row)[i] = stack_capture(caller);
    }
    return NULL;
}

// The ids are the threads' only agreement: the same for the same stack, or no dedupe.
ISOLATED(four_threads_that_intern_the_same_stacks_agree) {
    make();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, intern_all, ids[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned long i = 0; i < DISTINCT; i++) {
        for (int k = 1; k < THREADS; k++)
            assert_int_equal(ids[k][i], ids[0][i]);
        fake_stack_set(1, 10, i);
        assert_int_equal(stack(ids[0][i])->depth, 10);
        for (int k = 0; k < 10; k++)
            assert_int_equal(frame(ids[0][i], k), LEDGER_FRAME(0, (uintptr_t)fake_stack[1 + k]));
    }
    assert_int_equal(ledger.header->counters.stacks_lost, 0);
    assert_int_equal(ledger.header->counters.stacks_call_site, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stack_is_kept_frame_by_frame_from_the_caller_on),
        cmocka_unit_test(the_same_stack_has_the_same_id),
        cmocka_unit_test(stacks_that_differ_in_one_frame_are_two),
        cmocka_unit_test(two_frames_that_changed_places_are_another_stack),
        cmocka_unit_test(a_stack_as_deep_as_the_limit_is_whole),
        cmocka_unit_test(a_deeper_stack_is_cut_at_the_outer_end_and_says_so),
        cmocka_unit_test(the_depth_may_be_1_or_128),
        cmocka_unit_test(the_unwinder_runs_under_the_guard),
        cmocka_unit_test(under_the_guard_the_call_site_is_all),
        cmocka_unit_test(without_an_unwinder_the_call_site_is_all),
        cmocka_unit_test(an_unwinder_that_stops_in_our_own_code_leaves_the_call_site),
        cmocka_unit_test(a_full_table_is_counted_and_old_stacks_are_still_found),
        cmocka_unit_test(a_full_frame_table_is_counted_too),
        cmocka_unit_test(an_unload_of_something_else_leaves_the_stack_as_it_is),
        cmocka_unit_test(another_file_at_the_same_addresses_is_another_stack),
        cmocka_unit_test(errno_is_left_alone),
        cmocka_unit_test(four_threads_that_intern_the_same_stacks_agree),
    };
    return cmocka_run_group_tests_name("stacks", tests, NULL, NULL);
}
