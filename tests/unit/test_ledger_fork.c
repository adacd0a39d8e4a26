// ledger/ledger in a forked child: its own, with what was inherited.
#include "ledger/ledger.h"
#include "unit.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t number;

static void open_one(int fd) {
    uint32_t was;
    number = ledger_record_new();
    ledger_record(number)->inode = 4711;
    ledger_fd_swap(fd, number, &was);
    ledger.header->counters.born++;
}

static void close_one(int fd) {
    uint32_t was;
    ledger_fd_swap(fd, 0, &was);
    ledger_release(was);
}

static void begin_with(const char *directory) {
    assert_int_equal(ledger_create(directory, 32), 1);
    open_one(3);
    ledger.header->counters.stacks_lost = 9;
    ledger.header->end_status = 5;
    ledger.header->ended = ENDED_EXIT;
    ledger.header->snapshot_ns = 1;
}

static void continues(void *unused) {
    (void)unused;
    static const struct ledger_counters zero;
    char *before = (char *)ledger.header;
    assert_int_equal(ledger_continue_in_child(), 0);
    assert_ptr_equal(ledger.header, before); // addresses stay
    assert_int_equal(ledger.header->pid, getpid());
    assert_int_equal(ledger.header->parent_pid, getppid());
    assert_int_equal(ledger.header->process, 2);
    assert_int_equal(ledger.header->ended, ENDED_RUNNING);
    assert_int_equal(ledger.header->end_status, 0);
    assert_int_equal(ledger.header->snapshot_ns, 0);
    struct ledger_counters counters = ledger.header->counters;
    assert_int_equal(counters.inherited, 1);
    counters.inherited = 0;
    assert_memory_equal(&counters, &zero, sizeof zero);
    assert_int_equal(ledger_fd(3), number);
    assert_int_equal(ledger_record(number)->inode, 4711);
    assert_int_equal(ledger_record(number)->process, 1); // inherited, not born here
    open_one(4);
    assert_int_equal(ledger_record(number)->process, 2);
    ledger_record(1)->inode = 1;
}

static void the_parent_sees_nothing_of_it(void) {
    assert_int_equal(ledger.header->pid, getpid());
    assert_int_equal(ledger.header->process, 1);
    assert_int_equal(ledger.header->counters.stacks_lost, 9);
    assert_int_equal(ledger_record(1)->inode, 4711);
    assert_int_equal(ledger_fd(4), 0);
}

ISOLATED(in_private_memory_the_childs_ledger_is_its_own) {
    begin_with("");
    child_must_pass(continues, NULL);
    the_parent_sees_nothing_of_it();
}

static void continues_in_file(void *unused) {
    continues(unused);
    assert_true(ledger_is_file());
    char name[160], bytes[64];
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", scratch_directory(), (unsigned)getpid(),
             (unsigned long long)ledger.header->start_time_ticks);
    assert_true(read_file(name, bytes, sizeof bytes) > 0);
    assert_memory_equal(bytes, "SOCKLEAK", 8);
    struct ledger_record record;
    int fd = open(name, O_RDONLY);
    off_t at = (off_t)(ledger.header->regions[LEDGER_RECORDS].offset + sizeof record);
    assert_int_equal(pread(fd, &record, sizeof record, at), sizeof record);
    assert_int_equal(record.inode, 1); // what the child wrote is in its file
    close(fd);
    unlink(name);
}

ISOLATED(a_file_is_copied_for_the_child) {
    char name[160];
    begin_with(scratch_directory());
    child_must_pass(continues_in_file, NULL);
    the_parent_sees_nothing_of_it();
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", scratch_directory(), (unsigned)getpid(),
             (unsigned long long)ledger.header->start_time_ticks);
    assert_int_equal(unlink(name), 0);
}

static void continues_in_private_memory(void *unused) {
    continues(unused);
    assert_false(ledger_is_file());
}

ISOLATED(where_no_file_can_be_made_the_child_goes_on_in_private_memory) {
    char gone[160];
    snprintf(gone, sizeof gone, "%s/gone", scratch_directory());
    assert_int_equal(mkdir(gone, 0700), 0);
    begin_with(gone);
    assert_true(ledger_is_file());
    char name[256];
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", gone, (unsigned)getpid(),
             (unsigned long long)ledger.header->start_time_ticks);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(rmdir(gone), 0);
    child_must_pass(continues_in_private_memory, NULL);
    the_parent_sees_nothing_of_it();
}

ISOLATED(where_the_disk_is_full_the_child_goes_on_in_private_memory) {
    own_mounts();
    if (mount("none", scratch_directory(), "tmpfs", 0, "size=256k") != 0)
        isolated_skip("no tmpfs can be mounted: not permitted here");
    begin_with(scratch_directory());
    assert_true(ledger_is_file());
    child_must_pass(continues_in_private_memory, NULL);
    the_parent_sees_nothing_of_it();
}

static void inherits_one(void *unused) {
    (void)unused;
    assert_int_equal(ledger_continue_in_child(), 0);
    assert_int_equal(ledger.header->process, 3);
    assert_int_equal(ledger.header->counters.inherited, 1);
    assert_int_equal(ledger_fd(4), 0);
    assert_int_equal(ledger_record(ledger_fd(3))->process, 1); // its origin, two forks ago
}

static void closes_one_of_two(void *unused) {
    (void)unused;
    assert_int_equal(ledger_continue_in_child(), 0);
    assert_int_equal(ledger.header->counters.inherited, 2);
    close_one(4);
    child_must_pass(inherits_one, NULL);
}

ISOLATED(a_grandchild_inherits_what_the_child_has_not_closed) {
    assert_int_equal(ledger_create("", 32), 1);
    open_one(3);
    open_one(4);
    open_one(5);
    close_one(5);
    child_must_pass(closes_one_of_two, NULL);
}

static void no_ledger_but_alive(void *unused) {
    (void)unused;
    assert_true(ledger_continue_in_child() < 0);
    assert_false(ledger_exists());
    assert_true(ledger_creation_failed());
}

ISOLATED(where_nothing_can_be_had_the_child_has_no_ledger_and_the_parents_is_untouched) {
    begin_with(scratch_directory());
    char name[160];
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", scratch_directory(), (unsigned)getpid(),
             (unsigned long long)ledger.header->start_time_ticks);
    struct rlimit limit = {1 << 20, 1 << 20};
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0); // no new mapping
    child_must_pass(no_ledger_but_alive, NULL);
    the_parent_sees_nothing_of_it();
    assert_int_equal(unlink(name), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_private_memory_the_childs_ledger_is_its_own),
        cmocka_unit_test(a_file_is_copied_for_the_child),
        cmocka_unit_test(where_no_file_can_be_made_the_child_goes_on_in_private_memory),
        cmocka_unit_test(where_the_disk_is_full_the_child_goes_on_in_private_memory),
        cmocka_unit_test(a_grandchild_inherits_what_the_child_has_not_closed),
        cmocka_unit_test(
            where_nothing_can_be_had_the_child_has_no_ledger_and_the_parents_is_untouched),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("ledger_fork", tests, NULL, NULL);
}
