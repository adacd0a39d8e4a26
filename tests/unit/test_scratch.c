// report/scratch: memory for the length of one report.
#include "report/scratch.h"
#include "unit.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

static void pieces_are_zero_aligned_and_apart(void **state) {
    (void)state;
    struct scratch scratch;
    assert_int_equal(scratch_open(&scratch), 0);
    char *before = NULL;
    for (size_t bytes = 1; bytes < 100; bytes++) {
        char *piece = scratch_take(&scratch, bytes);
        assert_non_null(piece);
        assert_int_equal((uintptr_t)piece % 16, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(piece[i], 0);
        assert_true(before == NULL || piece >= before + bytes - 1);
        memset(piece, 0x55, bytes);
        before = piece;
    }
    scratch_close(&scratch);
    assert_null(scratch.base);
}

static void more_than_there_is_is_null(void **state) {
    (void)state;
    struct scratch scratch;
    assert_int_equal(scratch_open(&scratch), 0);
    assert_null(scratch_take(&scratch, scratch.size_bytes + 1));
    assert_null(scratch_take(&scratch, SIZE_MAX - 15));
    assert_null(scratch_take(&scratch, SIZE_MAX));
    assert_non_null(scratch_take(&scratch, scratch.size_bytes));
    assert_null(scratch_take(&scratch, 1));
    scratch_close(&scratch);
}

ISOLATED(where_addresses_are_short_it_is_smaller) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_int_equal(fscanf(file, "%lu", &pages), 1);
    fclose(file);
    struct rlimit limit = {.rlim_cur = pages * 4096 + (16 << 20), .rlim_max = RLIM_INFINITY};
    struct scratch scratch;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    assert_int_equal(scratch_open(&scratch), 0);
    assert_true(scratch.size_bytes <= 16 << 20);
    assert_non_null(scratch_take(&scratch, 1 << 20));
    scratch_close(&scratch);
    limit.rlim_cur = pages * 4096;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    assert_true(scratch_open(&scratch) < 0);
}

ISOLATED(under_a_limit_the_program_keeps_its_share_of_the_addresses) {
    needs_addresses_of_its_own();
    struct rlimit limit = {.rlim_cur = 400 << 20, .rlim_max = RLIM_INFINITY};
    struct scratch scratch;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    assert_int_equal(scratch_open(&scratch), 0);
    assert_true(scratch.size_bytes <= 400 / 16 << 20);
    assert_non_null(scratch_take(&scratch, 1 << 20));
    scratch_close(&scratch);
}

static long resident_kilobytes(void) {
    long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_int_equal(fscanf(file, "%ld %ld", &size, &resident), 2);
    fclose(file);
    return resident * 4;
}

ISOLATED(in_locked_memory_only_what_is_taken_is_present) {
    lock_memory();
    struct scratch scratch;
    long before = resident_kilobytes();
    assert_int_equal(scratch_open(&scratch), 0);
    assert_true(resident_kilobytes() < before + 256);
    for (int i = 0; i < 1000; i++)
        memset(scratch_take(&scratch, 4000), 1, 4000);
    assert_true(resident_kilobytes() < before + 2 * 4000 + 1024); // the last step doubled it
    memset(scratch_take(&scratch, 64 << 20), 1, 64 << 20);        // one piece larger than a step
    assert_true(resident_kilobytes() < before + (65 << 10) + 8 * 1024);
    scratch_close(&scratch);
}

static void it_grows_in_few_steps(void **state) {
    (void)state;
    struct scratch scratch;
    int steps = 0;
    assert_int_equal(scratch_open(&scratch), 0);
    while (scratch.used_bytes < 256 << 20) {
        size_t before = scratch.committed_bytes;
        assert_non_null(scratch_take(&scratch, 100000));
        steps += scratch.committed_bytes != before;
    }
    assert_true(steps <= 12);
    scratch_close(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_zero_aligned_and_apart),
        cmocka_unit_test(more_than_there_is_is_null),
        cmocka_unit_test(where_addresses_are_short_it_is_smaller),
        cmocka_unit_test(under_a_limit_the_program_keeps_its_share_of_the_addresses),
        cmocka_unit_test(in_locked_memory_only_what_is_taken_is_present),
        cmocka_unit_test(it_grows_in_few_steps),
    };
    return cmocka_run_group_tests_name("scratch", tests, NULL, NULL);
}
