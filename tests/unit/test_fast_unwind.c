// Fast backtraces: equal to the C library's, of every shape of frame that they take, or none.
#include "track/fast_unwind.h"
#include "track/frame_rules.h"
#include "unit.h"
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 60,
    THREADS = 4,
    ROUNDS = 2000
};

// From the caller of capture() outwards.
struct capture {
    void *fast[DEPTH_MAX], *truth[DEPTH_MAX];
    int fast_depth, truth_depth;
    bool learn;
};

static uint64_t unloads;

static __attribute__((noinline)) void capture(struct capture *out, int max) {
    struct fast_start start;
    void *all[DEPTH_MAX + 4];
    FAST_START(start);
    int depth = backtrace(all, max + 1), first = 0;
    while (first < depth && all[first] != __builtin_return_address(0))
        first++;
    out->truth_depth = depth - first < max ? depth - first : max;
    memcpy(out->truth, all + first, (size_t)out->truth_depth * sizeof *all);
    out->fast_depth = fast_backtrace(&start, out->fast, max, unloads, &out->learn);
    if (out->learn)
        fast_learn(&start, out->truth, out->truth_depth, max);
}

static void assert_same(const struct capture *c) {
    assert_int_equal(c->fast_depth, c->truth_depth);
    assert_memory_equal(c->fast, c->truth, (size_t)c->truth_depth * sizeof *c->fast);
}

// Calls itself, so that the second time comes from the same place as the first.
static __attribute__((noinline)) void capture_twice(struct capture *out, int max) {
    for (int i = 0; i < 2; i++)
        capture(out, max);
}

static volatile int keep; // a use behind a call, which else would be a jump

static __attribute__((noinline)) void recurse(int depth, void (*at_end)(void *), void *context) {
    if (depth)
        recurse(depth - 1, at_end, context);
    else
        at_end(context);
    keep++;
}

// A frame whose size is known when it runs has rbp for its base.
static __attribute__((noinline)) void recurse_with_alloca(int depth, void (*at_end)(void *),
                                                          void *context) {
    char *room = __builtin_alloca((size_t)depth * 16 + 16);
    memset(room, 0, 16);
    __asm__ volatile("" : : "r"(room) : "memory");
    if (depth)
        recurse_with_alloca(depth - 1, at_end, context);
    else
        at_end(context);
    keep++;
}

static void twice(void *out) {
    capture_twice(out, DEPTH_MAX);
    keep++;
}

static void twice_cut(void *out) {
    capture_twice(out, 10);
    keep++;
}

static void plain_frames_are_as_the_c_library_has_them(void **state) {
    (void)state;
    static struct capture c;
    for (int depth = 0; depth < 30; depth++) {
        recurse(depth, twice, &c);
        assert_same(&c);
        assert_true(c.truth_depth > depth);
    }
}

static void frames_with_rbp_are_too(void **state) {
    (void)state;
    static struct capture c;
    for (int depth = 0; depth < 20; depth++) {
        recurse_with_alloca(depth, twice, &c);
        assert_same(&c);
    }
}

static void a_cut_backtrace_has_max_frames(void **state) {
    (void)state;
    static struct capture c;
    recurse(20, twice_cut, &c);
    assert_int_equal(c.truth_depth, 10);
    assert_same(&c);
}

static struct capture in_callback;

static int compare(const void *a, const void *b) {
    capture_twice(&in_callback, DEPTH_MAX);
    return *(const int *)a - *(const int *)b;
}

static void frames_of_the_c_library_are_too(void **state) {
    (void)state;
    int numbers[2] = {2, 1};
    qsort(numbers, 2, sizeof *numbers, compare);
    assert_same(&in_callback);
}

// gcc finds the caller's frame through an expression here (DRAP).
static __attribute__((noinline)) void in_realigned_frame(struct capture *out, int size) {
    alignas(64) char aligned[64];
    char *room = __builtin_alloca((size_t)size);
    __asm__ volatile("" : : "r"(aligned), "r"(room) : "memory");
    capture_twice(out, DEPTH_MAX);
    __asm__ volatile("" : : "r"(aligned), "r"(room) : "memory");
}

static void other_frames_are_left_to_libunwind_or_right(void **state) {
    (void)state;
    static struct capture c;
    in_realigned_frame(&c, 100);
    if (c.fast_depth)
        assert_same(&c);
    assert_false(c.learn); // it is not asked for again
}

static struct capture in_handler;

static void handle(int number) {
    (void)number;
    capture_twice(&in_handler, DEPTH_MAX);
}

static void a_signal_frame_is_left_to_libunwind(void **state) {
    (void)state;
    signal(SIGUSR1, handle);
    raise(SIGUSR1);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(in_handler.fast_depth, 0);
    assert_false(in_handler.learn);
}

static void an_unload_forgets_all(void **state) {
    (void)state;
    static struct capture c;
    recurse(5, twice, &c);
    assert_same(&c);
    struct fast_start start;
    bool learn;
    FAST_START(start);
    unloads++;
    assert_int_equal(fast_backtrace(&start, c.fast, DEPTH_MAX, unloads, &learn), 0);
    assert_true(learn);
    recurse(5, twice, &c);
    assert_same(&c);
}

static void what_libunwind_saw_otherwise_is_refused(void **state) {
    (void)state;
    struct fast_start start;
    bool learn;
    void *pcs[DEPTH_MAX];
    int depth = backtrace(pcs, DEPTH_MAX);
    FAST_START(start);
    assert_true(depth > 2);
    pcs[1] = (char *)pcs[1] + 1; // the caller of this function
    fast_learn(&start, pcs + 1, depth - 1, DEPTH_MAX);
    assert_int_equal(fast_backtrace(&start, pcs, DEPTH_MAX, unloads, &learn), 0);
    assert_false(learn);
}

static void what_is_no_code_is_refused(void **state) {
    (void)state;
    static const char data[16];
    assert_int_equal(frame_rule_at(1).kind, FRAME_REFUSED);
    assert_int_equal(frame_rule_at((uintptr_t)data).kind, FRAME_REFUSED);
    assert_int_equal(frame_rule_at((uintptr_t)state).kind, FRAME_REFUSED);
}

static void stack_pointers_to_nowhere_are_refused(void **state) {
    (void)state;
    struct fast_start start;
    void *pcs[DEPTH_MAX];
    bool learn;
    FAST_START(start);
    start.rsp = start.rbp = 4096;
    assert_int_equal(fast_backtrace(&start, pcs, DEPTH_MAX, unloads, &learn), 0);
    fast_learn(&start, pcs, 1, DEPTH_MAX);
}

static void *in_thread(void *failed) {
    static __thread struct capture c;
    for (int i = 0; i < ROUNDS; i++) {
        recurse(i % 23, twice, &c);
        if (c.fast_depth == 0 && c.learn) // another thread wrote over the table's entry
            continue;
        if (c.fast_depth != c.truth_depth ||
            memcmp(c.fast, c.truth, (size_t)c.truth_depth * sizeof *c.fast) != 0)
            return failed;
        if (i % 100 == 0)
            __atomic_fetch_add(&unloads, 1, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

static void threads_and_unloads_agree(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, in_thread, threads), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

int main(void) {
    static struct capture c;
    recurse(1, twice, &c);
    if (c.fast_depth == 0) {
        printf("skipped: no rules for this architecture or C library\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_frames_are_as_the_c_library_has_them),
        cmocka_unit_test(frames_with_rbp_are_too),
        cmocka_unit_test(a_cut_backtrace_has_max_frames),
        cmocka_unit_test(frames_of_the_c_library_are_too),
        cmocka_unit_test(other_frames_are_left_to_libunwind_or_right),
        cmocka_unit_test(a_signal_frame_is_left_to_libunwind),
        cmocka_unit_test(an_unload_forgets_all),
        cmocka_unit_test(what_libunwind_saw_otherwise_is_refused),
        cmocka_unit_test(what_is_no_code_is_refused),
        cmocka_unit_test(stack_pointers_to_nowhere_are_refused),
        cmocka_unit_test(threads_and_unloads_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
