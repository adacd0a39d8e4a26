// Walks that are known again: never for another stack than theirs.
#include "ledger/ledger.h"
#include "track/fast_unwind.h"
#include "track/modules.h"
#include "track/walks.h"
#include "unit.h"
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 120,
    THREADS = 4,
    ROUNDS = 100000
};

struct capture {
    void *pcs[DEPTH_MAX];
    int depth;
    uint32_t known; // what walk_known() said
    uint32_t truth; // the id that this stack has
};

// An id that no other stack of these tests has.
static uint32_t id_of(void *const *pcs, int depth) {
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < depth; i++)
        hash = (hash ^ (uintptr_t)pcs[i]) * 0x9e3779b97f4a7c15u + 1;
    return (uint32_t)(hash >> 32) | 1;
}

// What stack_capture() does.
static __attribute__((noinline)) void capture(struct capture *out) {
    struct fast_start start;
    void *all[DEPTH_MAX];
    bool learn;
    FAST_START(start);
    const void *caller = __builtin_return_address(0);
    out->known = walk_known(&start, caller);
    int depth = backtrace(all, DEPTH_MAX), first = 0;
    while (first < depth && all[first] != caller)
        first++;
    out->depth = depth - first;
    memcpy(out->pcs, all + first, (size_t)out->depth * sizeof *all);
    out->truth = id_of(out->pcs, out->depth);
    void *walked[DEPTH_MAX];
    if (fast_backtrace(&start, walked, DEPTH_MAX, module_unloads(), &learn) == 0 && learn)
        fast_learn(&start, out->pcs, out->depth, DEPTH_MAX);
    if (!out->known)
        walk_remember(&start, out->pcs, out->depth, true, out->truth, ledger.header->process);
}

static _Thread_local volatile int keep; // a use behind a call, which else would be a jump

// The same frame, called from two places.
static __attribute__((noinline)) void times(struct capture *out, int count) {
    for (int i = 0; i < count; i++)
        capture(out);
    keep++;
}

static __attribute__((noinline)) void from_either(struct capture *out, int count, bool here) {
    if (here) {
        times(out, count);
        keep++;
    } else {
        times(out, count);
        keep--;
    }
}

static __attribute__((noinline)) void deeper(int depth, struct capture *out, int count) {
    if (depth)
        deeper(depth - 1, out, count);
    else
        times(out, count);
    keep++;
}

static void begin(void) {
    assert_int_equal(ledger_create("", 60, NULL), 1);
}

ISOLATED(a_walk_is_known_when_it_was_asked_for_twice) {
    static struct capture c;
    begin();
    for (int i = 0; i < 5; i++) {
        deeper(5, &c, 1);
        assert_int_equal(c.known, i < 2 ? 0 : c.truth);
    }
}

ISOLATED(one_from_elsewhere_is_not) {
    static struct capture c;
    begin();
    static const volatile bool here[] = {true, true, true, false, true, false, true};
    static const volatile bool known[] = {false, false, true, false, true, false, true};
    uint32_t ids[2];
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) { // all from this place
        from_either(&c, 1, here[i]);
        assert_int_equal(c.known, known[i] ? c.truth : 0);
        ids[here[i]] = c.truth;
    }
    assert_int_not_equal(ids[0], ids[1]);
}

ISOLATED(none_is_behind_an_unload) {
    static struct capture c;
    begin();
    for (int i = 0; i < 5; i++) {
        deeper(5, &c, 1);
        assert_int_equal(c.known, i < 2 || i == 4 ? 0 : c.truth);
        if (i == 3)
            module_unloaded();
    }
}

// Forks the fourth time: both go on, from the same place.
static __attribute__((noinline)) void fork_in_round(int round, pid_t *child) {
    if (round == 3) {
        ledger_prepare_fork();
        *child = fork();
        assert_true(*child >= 0);
    }
    if (*child == 0)
        assert_int_equal(ledger_continue_in_child(), 0);
}

ISOLATED(none_is_in_a_forked_child) {
    static struct capture c;
    pid_t child = -1;
    begin();
    for (int i = 0; i < 4; i++) {
        fork_in_round(i, &child);
        deeper(5, &c, 1);
        assert_int_equal(c.known, i < 2 || child == 0 ? 0 : c.truth);
    }
    if (child == 0)
        _exit(0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

ISOLATED(one_too_long_is_not_remembered) {
    static struct capture c;
    begin();
    deeper(FAST_SLOTS_MAX, &c, 4);
    assert_int_equal(c.known, 0);
    deeper(FAST_SLOTS_MAX - 40, &c, 4);
    assert_int_equal(c.known, c.truth);
}

ISOLATED(what_does_not_lead_there_is_not_remembered) {
    begin();
    struct fast_start start;
    FAST_START(start);
    void *pcs[] = {(void *)begin, (void *)capture};
    for (int i = 0; i < 4; i++)
        walk_remember(&start, pcs, 2, true, 1, ledger.header->process);
    assert_int_equal(walk_known(&start, pcs[0]), 0);
}

// --- any stack ----------------------------------------------------------------------------------

struct wander {
    uint64_t random;
    struct capture capture;
    int hits, wrong;
};

static uint32_t dice(struct wander *w, uint32_t sides) {
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % sides;
}

static void step(struct wander *w, int depth);

static __attribute__((noinline)) void small(struct wander *w, int depth) {
    step(w, depth);
    keep++;
}

static __attribute__((noinline)) void small_too(struct wander *w, int depth) {
    step(w, depth);
    keep--;
}

static __attribute__((noinline)) void large(struct wander *w, int depth) {
    char room[48];
    __asm__ volatile("" : : "r"(room) : "memory");
    step(w, depth);
    keep++;
}

// Found by rbp. Its size is that of large() or not.
static __attribute__((noinline)) void by_rbp(struct wander *w, int depth) {
    char *room = __builtin_alloca(16 * (1 + dice(w, 2)));
    __asm__ volatile("" : : "r"(room) : "memory");
    step(w, depth);
    keep++;
}

static __attribute__((noinline)) void step(struct wander *w, int depth) {
    static void (*const next[])(struct wander *, int) = {small, small_too, large, by_rbp};
    if (depth)
        next[dice(w, 4)](w, depth - 1);
    else
        times(&w->capture, 1);
    keep++;
}

static void *wander(void *from) {
    struct wander *w = from;
    for (int i = 0; i < ROUNDS; i++) {
        step(w, (int)dice(w, 4));
        w->hits += w->capture.known != 0;
        w->wrong += w->capture.known != 0 && w->capture.known != w->capture.truth;
    }
    return NULL;
}

ISOLATED(threads_on_any_stack_are_never_told_of_another) {
    static struct wander wanders[THREADS];
    pthread_t threads[THREADS];
    begin();
    for (int i = 0; i < THREADS; i++) {
        wanders[i].random = (uint64_t)i + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, wander, &wanders[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(wanders[i].wrong, 0);
        assert_true(wanders[i].hits > ROUNDS / 100);
    }
}

int main(void) {
    struct fast_start start;
    FAST_START(start);
    if (start.pc == 0) {
        printf("skipped: no fast backtraces on this architecture\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_walk_is_known_when_it_was_asked_for_twice),
        cmocka_unit_test(one_from_elsewhere_is_not),
        cmocka_unit_test(none_is_behind_an_unload),
        cmocka_unit_test(none_is_in_a_forked_child),
        cmocka_unit_test(one_too_long_is_not_remembered),
        cmocka_unit_test(what_does_not_lead_there_is_not_remembered),
        cmocka_unit_test(threads_on_any_stack_are_never_told_of_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
