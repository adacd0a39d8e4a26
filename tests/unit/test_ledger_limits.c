// ledger/ledger under limits: where it cannot be as large, or not where it was wanted, or not at
// all, the program runs on.
#include "fd_table.h"
#include "ledger/ledger.h"
#include "unit.h"
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int files_in(const char *directory) {
    int count = 0;
    DIR *dir = opendir(directory);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        count += entry->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return count;
}

static rlim_t addresses_in_use(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_int_equal(fscanf(file, "%lu", &pages), 1);
    fclose(file);
    return pages * 4096;
}

static void limit_addresses(rlim_t more_bytes) {
    struct rlimit limit;
    limit.rlim_cur = limit.rlim_max = addresses_in_use() + more_bytes;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
}

static void it_works(void) {
    uint32_t number = ledger_record_new();
    assert_int_not_equal(number, 0);
    fd_table_put(3, number);
    assert_int_equal(ledger_fd(3), number);
}

static void remove_own_file(void) {
    char name[128];
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", scratch_directory(), ledger.header->pid,
             (unsigned long long)ledger.header->start_time_ticks);
    assert_int_equal(unlink(name), 0);
}

ISOLATED(with_a_directory_it_is_a_file_there) {
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    assert_true(ledger_is_file());
    it_works();
    char name[128], header[LEDGER_HEADER_BYTES + 1];
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", scratch_directory(), ledger.header->pid,
             (unsigned long long)ledger.header->start_time_ticks);
    assert_int_equal(read_file(name, header, sizeof header), LEDGER_HEADER_BYTES);
    assert_memory_equal(header, ledger.header, LEDGER_HEADER_BYTES);
    unlink(name);
}

ISOLATED(only_faults_in_a_file_of_its_own_are_mended) {
    char elsewhere = 0;
    assert_false(ledger_survives_cut(ledger.header)); // none yet
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    assert_false(ledger_survives_cut(&elsewhere));
    assert_false(ledger_survives_cut(NULL));
    assert_true(ledger_is_file());
    uint32_t process = ledger.header->process, number = ledger_record_new();
    assert_true(ledger_survives_cut(ledger_record(number)));
    assert_false(ledger_is_file());
    assert_true(ledger.header->file_cut_ns != 0);
    assert_int_equal(ledger.header->process, process + 1); // what is remembered of stacks is void
    assert_int_equal(ledger.header->regions[LEDGER_DESTINATIONS].used, 0); // to be made anew
    assert_int_equal(files_in(scratch_directory()), 0);
    assert_true(ledger_record_new() > number);
    assert_true(ledger_survives_cut(ledger_record(2)));  // by another thread, a moment ago
    assert_false(ledger_survives_cut(ledger_record(2))); // no: the memory itself is bad
    it_works();
}

ISOLATED(a_directory_that_cannot_be_written_gives_private_memory) {
    if (geteuid() == 0)
        assert_int_equal(ledger_create("/proc/self/fdinfo", 32, NULL), 1); // not even root's
    else
        assert_int_equal(ledger_create("/usr", 32, NULL), 1);
    assert_false(ledger_is_file());
    it_works();
}

ISOLATED(a_file_size_limit_gives_private_memory) {
    struct rlimit limit = {1 << 20, 1 << 20};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    assert_false(ledger_is_file());
    assert_int_equal(files_in(scratch_directory()), 0);
    it_works();
}

ISOLATED(few_addresses_give_a_smaller_ledger) {
    limit_addresses(32 << 20);
    assert_int_equal(ledger_create("", 32, NULL), 1);
    it_works();
    uint64_t total = 0;
    for (int i = 0; i < LEDGER_REGIONS; i++)
        total += ledger.header->regions[i].reserved_bytes;
    assert_true(total < 32 << 20);
}

ISOLATED(few_addresses_and_a_directory_give_a_smaller_file) {
    limit_addresses(32 << 20);
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    assert_true(ledger_is_file());
    assert_int_equal(files_in(scratch_directory()), 1);
    it_works();
    remove_own_file();
}

// A program that calculates with its limit: what we reserve, its malloc cannot have.
static void takes_one_in_16_at_most(const char *dir) {
    needs_addresses_of_its_own();
    rlim_t before = addresses_in_use();
    struct rlimit limit = {400 << 20, 400 << 20};
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    assert_int_equal(ledger_create(dir, 32, NULL), 1);
    assert_true(addresses_in_use() - before <= (400 << 20) / 16);
    it_works();
}

ISOLATED(under_a_limit_the_program_keeps_its_share_of_the_addresses) {
    takes_one_in_16_at_most("");
    assert_true(ledger.header->regions[LEDGER_RECORDS].reserved_bytes >= 1 << 20); // a fair one
}

ISOLATED(under_a_limit_a_file_is_smaller_too) {
    takes_one_in_16_at_most(scratch_directory());
    assert_true(ledger_is_file());
    remove_own_file();
}

ISOLATED(no_addresses_at_all_are_an_error_that_is_remembered) {
    limit_addresses(0);
    assert_true(ledger_create("", 32, NULL) < 0);
    assert_false(ledger_exists());
    assert_true(ledger_creation_failed());
    assert_true(ledger_create("", 32, NULL) < 0);
}

// A program that is not position-independent begins at 0x400000; ours may be elsewhere, so a page
// stands for it.
static void nothing_of_the_program_is_unmapped(const char *dir) {
    char *low = mmap((void *)0x1000000, 4096, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (low != (char *)0x1000000)
        isolated_skip("address 0x1000000 is taken");
    limit_addresses(0);
    assert_true(ledger_create(dir, 32, NULL) < 0);
    unsigned char there;
    assert_int_equal(mincore(low, 4096, &there), 0); // ENOMEM: not mapped
}

ISOLATED(no_addresses_and_no_directory_leave_the_programs_memory_alone) {
    nothing_of_the_program_is_unmapped("/nonexistent");
}

ISOLATED(no_addresses_and_a_directory_leave_the_programs_memory_alone) {
    nothing_of_the_program_is_unmapped(scratch_directory());
    assert_int_equal(files_in(scratch_directory()), 0);
}

static void on_small_tmpfs(const char *size) {
    own_mounts();
    if (mount("none", scratch_directory(), "tmpfs", 0, size) != 0)
        isolated_skip("no tmpfs can be mounted: not permitted here");
}

ISOLATED(a_full_tmpfs_at_creation_gives_private_memory) {
    on_small_tmpfs("size=4k");
    char filler[128];
    snprintf(filler, sizeof filler, "%s/filler", scratch_directory());
    char page[4096] = "";
    write_file(filler, page, sizeof page);
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    assert_false(ledger_is_file());
    assert_int_equal(files_in(scratch_directory()), 1);
    it_works();
}

ISOLATED(a_tmpfs_that_fills_up_counts_what_is_not_tracked) {
    on_small_tmpfs("size=1m");
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    assert_true(ledger_is_file());
    uint32_t last = 0, lost = 0;
    for (int i = 0; i < 10000; i++) {
        uint32_t number = ledger_record_new();
        if (number)
            last = number;
        else
            lost++;
    }
    assert_true(last > 500 && last < (1 << 20) / sizeof(struct ledger_record));
    assert_int_equal(lost, 10000 - last);
    assert_int_equal(ledger.header->counters.untracked_records, lost);
    memset(ledger_record(last), 0x55, sizeof(struct ledger_record)); // no SIGBUS
    assert_true(ledger_fd_reserve(3) < 0);
    assert_int_equal(ledger.header->counters.untracked_fds, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_a_directory_it_is_a_file_there),
        cmocka_unit_test(only_faults_in_a_file_of_its_own_are_mended),
        cmocka_unit_test(a_directory_that_cannot_be_written_gives_private_memory),
        cmocka_unit_test(a_file_size_limit_gives_private_memory),
        cmocka_unit_test(few_addresses_give_a_smaller_ledger),
        cmocka_unit_test(few_addresses_and_a_directory_give_a_smaller_file),
        cmocka_unit_test(under_a_limit_the_program_keeps_its_share_of_the_addresses),
        cmocka_unit_test(under_a_limit_a_file_is_smaller_too),
        cmocka_unit_test(no_addresses_at_all_are_an_error_that_is_remembered),
        cmocka_unit_test(no_addresses_and_no_directory_leave_the_programs_memory_alone),
        cmocka_unit_test(no_addresses_and_a_directory_leave_the_programs_memory_alone),
        cmocka_unit_test(a_full_tmpfs_at_creation_gives_private_memory),
        cmocka_unit_test(a_tmpfs_that_fills_up_counts_what_is_not_tracked),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("ledger_limits", tests, NULL, NULL);
}
