// Fast backtraces: equal to the C library's, of every shape of frame that they take, or none.
#include "track/fast_unwind.h"
#include "track/frame_rules.h"
#include "unit.h"
#include <dlfcn.h>
#include <elf.h>
#include <execinfo.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    DEPTH_MAX = 60,
    THREADS = 4,
    DAMAGES = 120,
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
    int depth = backtrace(all, max + 4), first = 0; // a sanitizer's own frame among them
    while (first < depth && all[first] != __builtin_return_address(0))
        first++;
    out->truth_depth = depth - first < max ? depth - first : max;
    memcpy(out->truth, all + first, (size_t)out->truth_depth * sizeof *all);
    uint64_t now = __atomic_load_n(&unloads, __ATOMIC_ACQUIRE);
    out->fast_depth = fast_backtrace(&start, out->fast, max, now, &out->learn);
    if (out->learn)
        fast_learn(&start, out->truth, out->truth_depth, max);
}

static void assert_same(const struct capture *c) {
    assert_int_equal(c->fast_depth, c->truth_depth);
    assert_memory_equal(c->fast, c->truth, (size_t)c->truth_depth * sizeof *c->fast);
}

// Calls itself, so that the second time comes from the same place as the first.
static __attribute__((noinline)) void capture_twice(struct capture *out, int max) {
    for (volatile int i = 0; i < 2; i++) // volatile: one call, not two of them
        capture(out, max);
}

static _Thread_local volatile int keep; // a use behind a call, which else would be a jump

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

static uintptr_t learned_pc_by_rbp(void) {
    static struct capture c;
    recurse_with_alloca(3, twice, &c);
    assert_same(&c);
    for (int i = 0; i < c.fast_depth; i++)
        if (frame_rule_at((uintptr_t)c.fast[i]).kind == FRAME_BY_RBP)
            return (uintptr_t)c.fast[i];
    fail();
    return 0;
}

// A coroutine's stack that was unmapped, and another, smaller one in its place.
static void what_was_readable_once_need_not_be_again(void **state) {
    (void)state;
    enum {
        PAGE = 4096,
        PAGES = 16
    };
    char *stack = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(stack != MAP_FAILED);
    struct fast_start start = {.pc = learned_pc_by_rbp(),
                               .rsp = (uintptr_t)stack + 64,
                               .rbp = (uintptr_t)stack + (PAGES / 2) * PAGE};
    void *pcs[DEPTH_MAX];
    bool learn;
    // To a return address of 0, over there.
    assert_int_equal(fast_backtrace(&start, pcs, DEPTH_MAX, unloads, &learn), 0);
    assert_int_equal(munmap(stack + 4 * PAGE, (size_t)(PAGES - 4) * PAGE), 0);
    assert_int_equal(fast_backtrace(&start, pcs, DEPTH_MAX, unloads, &learn), 0);
    munmap(stack, 4 * PAGE);
}

// A variable of somebody's in rbp, where a frame was to be found by it: of code whose tables lie.
static void a_base_that_is_no_pointer_is_refused(void **state) {
    (void)state;
    static struct capture c;
    struct fast_start start;
    FAST_START(start);
    start.pc = learned_pc_by_rbp();
    for (uintptr_t distance = 0; distance <= 1 << 16; distance += 8) {
        const uintptr_t bases[] = {-distance, start.rsp - distance, start.rsp + (distance << 8)};
        for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
            bool learn;
            start.rbp = bases[i];
            fast_backtrace(&start, c.fast, DEPTH_MAX, unloads, &learn);
        }
    }
}

// A program that loads and unloads a plugin for each request goes on to be quick.
static void many_unloads_leave_room_for_what_is_learned(void **state) {
    (void)state;
    static struct capture c;
    for (int i = 0; i < 1 << 15; i++) {
        unloads++;
        capture_twice(&c, DEPTH_MAX);
        assert_same(&c);
    }
}

// --- tables that lie ----------------------------------------------------------------------------

struct library {
    uint8_t *bytes;
    size_t len_bytes, tables_at, tables_end; // of .eh_frame_hdr and .eh_frame, which follow it
    size_t code_at, code_end;                // addresses
};

// Some library that is there, with tables of its own.
static struct library read_library(void) {
    Dl_info info;
    struct library library = {.bytes = malloc(1 << 20)};
    assert_true(dladdr((void *)(uintptr_t)_cmocka_run_group_tests, &info) != 0);
    library.len_bytes = (size_t)read_file(info.dli_fname, (char *)library.bytes, 1 << 20);
    const Elf64_Ehdr *header = (const void *)library.bytes;
    const Elf64_Phdr *segment = (const void *)(library.bytes + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++) {
        if (segment[i].p_type == PT_GNU_EH_FRAME)
            library.tables_at = segment[i].p_offset;
        if (segment[i].p_type == PT_LOAD && (segment[i].p_flags & PF_X)) {
            library.code_at = segment[i].p_vaddr;
            library.code_end = segment[i].p_vaddr + segment[i].p_memsz;
        }
    }
    for (int i = 0; i < header->e_phnum; i++)
        if (segment[i].p_type == PT_LOAD && segment[i].p_offset <= library.tables_at &&
            library.tables_at < segment[i].p_offset + segment[i].p_filesz)
            library.tables_end = segment[i].p_offset + segment[i].p_filesz;
    assert_true(library.tables_at && library.code_at);
    return library;
}

// What stands in the first bytes is the encodings and the count; the table behind them leads into
// the descriptions.
static void damage(const struct library *library, unsigned round) {
    size_t room = round % 2 ? 64 : library->tables_end - library->tables_at;
    for (unsigned i = 0; i <= round % 40; i++) {
        size_t at = library->tables_at + (size_t)rand() % room;
        if (at - library->tables_at >= 8 || round % 3 == 0)
            library->bytes[at] = (uint8_t)(rand() % 4 ? rand() : rand() % 2 * 0xff);
    }
}

static void look_everywhere(void *context) {
    const struct library *library = context;
    char path[128];
    snprintf(path, sizeof path, "%s/damaged.so", scratch_directory());
    struct link_map *map = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(map);
    for (size_t at = library->code_at; at < library->code_end; at += 7)
        frame_rule_at(map->l_addr + at);
}

static void tables_that_lie_do_no_harm(void **state) {
    (void)state;
    struct library library = read_library();
    uint8_t *sound = malloc(library.len_bytes);
    memcpy(sound, library.bytes, library.len_bytes);
    char path[128];
    snprintf(path, sizeof path, "%s/damaged.so", scratch_directory());
    srand(1);
    for (unsigned round = 0; round < DAMAGES; round++) {
        memcpy(library.bytes, sound, library.len_bytes);
        damage(&library, round);
        write_file(path, library.bytes, library.len_bytes);
        child_must_pass(look_everywhere, &library);
    }
    free(sound);
    free(library.bytes);
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
    scratch_directory();
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
        cmocka_unit_test(a_base_that_is_no_pointer_is_refused),
        cmocka_unit_test(what_was_readable_once_need_not_be_again),
        cmocka_unit_test(tables_that_lie_do_no_harm),
        cmocka_unit_test(many_unloads_leave_room_for_what_is_learned),
        cmocka_unit_test(threads_and_unloads_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
