// base/clock: libc's clock is found while other threads read the system call's.
#include "base/clock.h"
#include "unit.h"
#include <pthread.h>
#include <stdbool.h>

static bool is_read, is_over; // relaxed, so that ThreadSanitizer sees no order between the threads

static void *read_again_and_again(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
        clock_now_ns();
        __atomic_store_n(&is_read, true, __ATOMIC_RELAXED);
    }
    return NULL;
}

ISOLATED(the_clock_goes_on_while_libcs_is_found) {
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, read_again_and_again, NULL), 0);
    while (!__atomic_load_n(&is_read, __ATOMIC_RELAXED))
        ;
    uint64_t before = clock_now_ns();
    clock_init();
    assert_true(clock_now_ns() >= before);
    __atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
    pthread_join(reader, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_clock_goes_on_while_libcs_is_found),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
