// ledger/ledger: records and the fd table.
#include "fd_table.h"
#include "ledger/ledger.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    THREADS = 4,
    ROUNDS = 20000
};

static void make(void) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
}

ISOLATED(it_is_created_once) {
    assert_false(ledger_exists());
    make();
    assert_true(ledger_exists());
    assert_false(ledger_is_file());
    struct ledger_header *header = ledger.header;
    assert_int_equal(ledger_create("", 7, NULL), 0);
    assert_ptr_equal(ledger.header, header);
    assert_int_equal(header->stack_depth, 32);
}

ISOLATED(the_header_tells_whose_it_is) {
    char exe[4096] = "", boot_id[64] = "", cmdline[256] = "";
    make();
    assert_memory_equal(ledger.header->magic, "SOCKLEAK", 8);
    assert_int_equal(ledger.header->pid, getpid());
    assert_int_equal(ledger.header->parent_pid, getppid());
    assert_int_equal(ledger.header->process, 1);
    assert_true(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    assert_string_equal(ledger.header->exe, exe);
    read_file("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
    assert_memory_equal(ledger.header->boot_id, boot_id, 36);
    assert_int_equal(ledger.header->boot_id[36], 0);
    long len = read_file("/proc/self/cmdline", cmdline, sizeof cmdline);
    assert_int_equal(ledger.header->cmdline_bytes, len);
    assert_memory_equal(ledger.header->cmdline, cmdline, (size_t)len);
}

ISOLATED(regions_are_in_order_and_do_not_overlap) {
    make();
    uint64_t end = LEDGER_HEADER_BYTES;
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        const struct ledger_region *region = &ledger.header->regions[i];
        assert_true(region->offset >= end);
        assert_int_equal(region->offset % 4096, 0);
        assert_int_equal(region->committed_bytes, 0); // a process pays for what it uses
        end = region->offset + region->reserved_bytes;
    }
}

// --- records ------------------------------------------------------------------------------------

ISOLATED(a_new_record_is_held_once_and_blank) {
    make();
    uint32_t number = ledger_record_new();
    assert_int_not_equal(number, 0);
    assert_int_equal(ledger_record(number)->holders, 1);
    assert_int_equal(ledger_record(number)->inode, 0);
    assert_int_equal(ledger_record(number)->process, 1);
    assert_int_not_equal(ledger_record_new(), number);
}

ISOLATED(a_freed_record_is_used_again_blank_and_with_a_new_generation) {
    make();
    uint32_t number = ledger_record_new();
    uint32_t generation = ledger_record(number)->generation;
    memset(&ledger_record(number)->inode, 0x55, 32);
    memset(&ledger_record(number)->snapshot, 0x55, sizeof(struct ledger_snapshot));
    ledger_record(number)->peer.port = 80;
    assert_true(ledger_release(number));
    assert_int_equal(ledger_record(number)->inode, 0);
    assert_int_equal(ledger_record_new(), number);
    const struct ledger_record *record = ledger_record(number);
    static const struct ledger_snapshot blank;
    assert_int_equal(record->generation, generation + 1);
    assert_int_equal(record->inode, 0);
    assert_int_equal(record->birth_ns, 0);
    assert_int_equal(record->peer.port, 0);
    assert_memory_equal(&record->snapshot, &blank, sizeof blank);
    assert_int_equal(record->holders, 1);
}

ISOLATED(the_last_release_frees) {
    make();
    uint32_t number = ledger_record_new();
    assert_true(ledger_hold(number));
    assert_false(ledger_release(number));
    assert_true(ledger_release(number));
    assert_false(ledger_hold(number)); // free
}

static pthread_barrier_t begin;

// Each thread marks the records that it got: one given to two threads shows.
static void *take_and_free(void *seed) {
    unsigned random = *(unsigned *)seed;
    uint32_t mine[8] = {0};
    pthread_barrier_wait(&begin);
    for (int i = 0; i < ROUNDS; i++) {
        int at = rand_r(&random) % 8;
        if (!mine[at]) {
            mine[at] = ledger_record_new();
            ledger_record(mine[at])->inode = *(unsigned *)seed;
            continue;
        }
        if (ledger_record(mine[at])->inode != *(unsigned *)seed || !ledger_hold(mine[at]) ||
            ledger_release(mine[at]) || !ledger_release(mine[at]))
            return (void *)"a record was given to two threads";
        mine[at] = 0;
    }
    for (int at = 0; at < 8; at++)
        if (mine[at])
            ledger_release(mine[at]);
    return NULL;
}

static void run_threads(void *(*body)(void *)) {
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    pthread_barrier_init(&begin, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, body, &seeds[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *complaint = NULL;
        pthread_join(threads[i], &complaint);
        if (complaint)
            fail_msg("%s", (char *)complaint);
    }
}

ISOLATED(four_threads_share_the_free_list_without_losing_or_doubling_a_record) {
    make();
    run_threads(take_and_free);
    // All are free now. Each comes out once, and none was lost.
    uint64_t used = ledger.header->regions[LEDGER_RECORDS].used;
    assert_true(used <= 1 + THREADS * 8);
    bool seen[1 + THREADS * 8] = {false};
    for (uint64_t i = 1; i < used; i++) {
        uint32_t number = ledger_record_new();
        assert_in_range(number, 1, used - 1);
        assert_false(seen[number]);
        seen[number] = true;
    }
    assert_int_equal(ledger_record_new(), used);
}

// --- the fd table -------------------------------------------------------------------------------

ISOLATED(an_fd_that_was_never_told_of_has_no_record) {
    make();
    assert_int_equal(ledger_fd(0), 0);
    assert_int_equal(ledger_fd(-1), 0);
    assert_int_equal(ledger_fd(INT32_MAX), 0);
    assert_int_equal(ledger_fd(INT32_MIN), 0);
    assert_int_equal(ledger_fd_hold(5), 0);
    assert_int_equal(ledger_fd_limit(), 0);
}

ISOLATED(what_stood_in_an_fds_place_is_handed_over) {
    make();
    uint32_t first = ledger_record_new(), second = ledger_record_new();
    assert_int_equal(ledger_fd_reserve(5), 0);
    assert_int_equal(ledger_fd_take(5), 0);
    assert_true(ledger_fd_replace(5, 0, first));
    assert_int_equal(ledger_fd(5), first);
    assert_true(ledger_fd_replace(5, first, second));
    assert_false(ledger_fd_replace(5, first, second));
    assert_int_equal(ledger_record(first)->holders, 1); // with its reference
    assert_int_equal(ledger_fd_limit(), 6);
    assert_int_equal(ledger_fd_take(5), second);
    assert_int_equal(ledger_record(second)->holders, 1);
    assert_int_equal(ledger_fd(5), 0);
}

ISOLATED(a_hold_by_fd_keeps_the_record_while_the_fd_is_closed) {
    make();
    uint32_t number = ledger_record_new();
    fd_table_put(3, number);
    assert_int_equal(ledger_fd_hold(3), number);
    assert_false(ledger_release(ledger_fd_take(3)));
    assert_true(ledger_release(number));
}

ISOLATED(the_table_grows_with_the_fds) {
    make();
    for (int fd = 1; fd < 1 << 20; fd = fd * 4 + 3) {
        uint32_t number = ledger_record_new();
        fd_table_put(fd, number);
        assert_int_equal(ledger_fd(fd), number);
        assert_int_equal(ledger_fd(fd - 1), 0);
    }
    assert_int_equal(ledger.header->counters.untracked_fds, 0);
}

ISOLATED(an_fd_beyond_the_table_is_counted_and_changes_nothing) {
    make();
    uint32_t number = ledger_record_new();
    int beyond = (int)(ledger.header->regions[LEDGER_FDS].reserved_bytes / sizeof(uint32_t));
    fd_table_put(beyond - 1, number);
    assert_true(ledger_fd_reserve(beyond) < 0);
    assert_true(ledger_fd_reserve(INT32_MAX) < 0);
    assert_int_equal(ledger_fd(beyond), 0);
    assert_int_equal(ledger.header->counters.untracked_fds, 2);
    assert_int_equal(ledger_fd_take(beyond), 0); // a close of it is no loss
    assert_int_equal(ledger.header->counters.untracked_fds, 2);
    assert_false(ledger_fd_restore(beyond, number));
}

ISOLATED(a_restore_gives_way_to_a_newer_record) {
    make();
    uint32_t old = ledger_record_new(), new = ledger_record_new();
    assert_true(ledger_fd_restore(9, old));
    assert_int_equal(ledger_fd(9), old);
    fd_table_put(9, new);
    assert_false(ledger_fd_restore(9, old));
    assert_int_equal(ledger_fd(9), new);
}

// Threads race for the same few fds, as accept and close do.
static void *swap_fds(void *seed) {
    unsigned random = *(unsigned *)seed;
    pthread_barrier_wait(&begin);
    for (int i = 0; i < ROUNDS; i++) {
        int fd = rand_r(&random) % 4;
        uint32_t held = ledger_fd_hold(fd);
        if (held) {
            if (ledger_record(held)->local.port != fd + 1)
                return (void *)"a held record is blank, or another fd's";
            ledger_release(held);
        }
        uint32_t number = rand_r(&random) % 2 ? ledger_record_new() : 0;
        if (number)
            ledger_record(number)->local.port = (uint16_t)(fd + 1);
        uint32_t was = number ? fd_table_put(fd, number) : ledger_fd_take(fd);
        if (was)
            ledger_release(was);
    }
    return NULL;
}

ISOLATED(four_threads_that_open_and_close_the_same_fds_leak_no_record) {
    make();
    run_threads(swap_fds);
    uint32_t open = 0;
    for (int fd = 0; fd < 4; fd++) {
        uint32_t was = ledger_fd_take(fd);
        if (was) {
            assert_true(ledger_release(was)); // the table's was the last reference
            open++;
        }
    }
    for (uint64_t i = 1; i < ledger.header->regions[LEDGER_RECORDS].used; i++)
        assert_int_equal(ledger.records[i].holders, 0);
    assert_true(open <= 4);
}

// --- taking elements ----------------------------------------------------------------------------

static void *take_elements(void *unused) {
    (void)unused;
    pthread_barrier_wait(&begin);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t at = ledger_take(LEDGER_FRAMES, 3, sizeof(uint64_t));
        if (at == 0)
            return (void *)"no room";
        for (int k = 0; k < 3; k++)
            if (__atomic_fetch_add(&ledger.frames[at + (uint64_t)k], 1, __ATOMIC_RELAXED) != 0)
                return (void *)"an element was handed out twice";
    }
    return NULL;
}

ISOLATED(four_threads_take_distinct_elements_while_the_region_grows) {
    make();
    run_threads(take_elements);
    assert_int_equal(ledger.header->regions[LEDGER_FRAMES].used, 1 + THREADS * ROUNDS * 3);
}

ISOLATED(a_region_at_its_end_hands_out_nothing_more) {
    make();
    struct ledger_region *region = &ledger.header->regions[LEDGER_STRINGS];
    uint64_t room = region->reserved_bytes - region->used;
    assert_int_equal(ledger_take(LEDGER_STRINGS, room + 1, 1), 0);
    assert_int_not_equal(ledger_take(LEDGER_STRINGS, room, 1), 0);
    assert_int_equal(ledger_take(LEDGER_STRINGS, 1, 1), 0);
    assert_int_equal(ledger_commit(LEDGER_STRINGS, region->reserved_bytes + 1), -ENOSPC);
}

ISOLATED(an_entry_whose_record_is_free_is_removed_and_ends_no_program) {
    alarm(5);
    assert_int_equal(ledger_create("", 32, NULL), 1);
    uint32_t number = ledger_record_new();
    fd_table_put(3, number);
    assert_true(ledger_release(number)); // and the entry stays
    assert_int_equal(ledger_fd_hold(3), 0);
    assert_int_equal(ledger_fd(3), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_created_once),
        cmocka_unit_test(the_header_tells_whose_it_is),
        cmocka_unit_test(regions_are_in_order_and_do_not_overlap),
        cmocka_unit_test(a_new_record_is_held_once_and_blank),
        cmocka_unit_test(a_freed_record_is_used_again_blank_and_with_a_new_generation),
        cmocka_unit_test(the_last_release_frees),
        cmocka_unit_test(four_threads_share_the_free_list_without_losing_or_doubling_a_record),
        cmocka_unit_test(an_fd_that_was_never_told_of_has_no_record),
        cmocka_unit_test(what_stood_in_an_fds_place_is_handed_over),
        cmocka_unit_test(a_hold_by_fd_keeps_the_record_while_the_fd_is_closed),
        cmocka_unit_test(the_table_grows_with_the_fds),
        cmocka_unit_test(an_fd_beyond_the_table_is_counted_and_changes_nothing),
        cmocka_unit_test(a_restore_gives_way_to_a_newer_record),
        cmocka_unit_test(four_threads_that_open_and_close_the_same_fds_leak_no_record),
        cmocka_unit_test(four_threads_take_distinct_elements_while_the_region_grows),
        cmocka_unit_test(a_region_at_its_end_hands_out_nothing_more),
        cmocka_unit_test(an_entry_whose_record_is_free_is_removed_and_ends_no_program),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
