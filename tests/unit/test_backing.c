// ledger/backing: private memory and files, step by step.
#include "base/process.h"
#include "ledger/backing.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    RESERVE = 64 << 20,
    PAGE = 4096
};

static long kilobytes_of(const char *field) {
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            value = strtol(line + strlen(field), NULL, 10);
    if (file)
        fclose(file);
    return value;
}

static int lowest_free_fd(void) {
    int fd = dup(0);
    close(fd);
    return fd;
}

static void store(void *address) {
    *(volatile char *)address = 1;
}

static void a_reserve_costs_addresses_and_no_memory(void **state) {
    (void)state;
    struct backing backing;
    long before = kilobytes_of("VmRSS:"), size = kilobytes_of("VmSize:");
    assert_int_equal(backing_reserve_private(&backing, RESERVE), 0);
    assert_false(backing.is_file);
    assert_true(kilobytes_of("VmSize:") >= size + RESERVE / 1024);
    assert_true(kilobytes_of("VmRSS:") < before + 1024);
    assert_int_equal(WTERMSIG(child_status(store, backing.base)), SIGSEGV); // not usable yet
    backing_discard(&backing);
    assert_true(kilobytes_of("VmSize:") < size + 1024);
}

static void what_is_committed_is_usable_and_zero(void **state) {
    (void)state;
    struct backing backing;
    assert_int_equal(backing_reserve_private(&backing, RESERVE), 0);
    assert_int_equal(backing_commit(&backing, PAGE, 3 * PAGE), 0);
    for (int i = PAGE; i < 3 * PAGE; i++)
        assert_int_equal(backing.base[i], 0);
    backing.base[PAGE] = 5;
    assert_int_equal(backing_commit(&backing, PAGE, 3 * PAGE), 0); // again: harmless
    assert_int_equal(backing.base[PAGE], 5);
    assert_int_equal(WTERMSIG(child_status(store, backing.base + 3 * PAGE)), SIGSEGV);
    backing_discard(&backing);
}

static void a_file_is_private_named_after_the_process_and_keeps_no_descriptor(void **state) {
    (void)state;
    struct backing backing;
    char expected[256];
    mode_t mask = umask(0);
    int before = lowest_free_fd();
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    umask(mask);
    assert_int_equal(lowest_free_fd(), before);
    snprintf(expected, sizeof expected, "%s/%d-%" PRIu64 ".ledger", scratch_directory(), getpid(),
             process_start_time_ticks());
    assert_string_equal(backing.path, expected);
    struct stat status;
    assert_int_equal(lstat(backing.path, &status), 0);
    assert_true(S_ISREG(status.st_mode));
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    memcpy(backing.base, "written", 8);
    char text[16];
    read_file(backing.path, text, sizeof text);
    assert_string_equal(text, "written");
    backing_discard(&backing);
    assert_int_equal(access(expected, F_OK), -1);
}

static void a_file_in_the_names_place_is_left_alone(void **state) {
    (void)state;
    char taken[256], link[256], target[256], text[16];
    snprintf(taken, sizeof taken, "%s/%d-%" PRIu64 ".ledger", scratch_directory(), getpid(),
             process_start_time_ticks());
    snprintf(link, sizeof link, "%s/%d-%" PRIu64 "-2.ledger", scratch_directory(), getpid(),
             process_start_time_ticks());
    snprintf(target, sizeof target, "%s/target", scratch_directory());
    write_file(taken, "earlier image", 13);
    assert_int_equal(symlink(target, link), 0);
    struct backing backing;
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_non_null(strstr(backing.path, "-3.ledger"));
    assert_int_equal(access(target, F_OK), -1); // the link was not followed
    read_file(taken, text, sizeof text);
    assert_string_equal(text, "earlier image");
    backing_discard(&backing);
    unlink(taken);
    unlink(link);
}

static void a_directory_that_is_not_there_is_an_error(void **state) {
    (void)state;
    struct backing backing;
    char long_name[400];
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_int_equal(backing_reserve_file(&backing, RESERVE, "/nonexistent"), -ENOENT);
    assert_int_equal(backing_reserve_file(&backing, RESERVE, "/dev/null"), -ENOTDIR);
    assert_int_equal(backing_reserve_file(&backing, RESERVE, long_name), -ENAMETOOLONG);
}

// What was not reserved must not be given back: munmap from address 0 on would take the program.
static void a_failed_reserve_leaves_nothing_to_discard(void **state) {
    (void)state;
    struct backing backing;
    memset(&backing, 0x55, sizeof backing);
    assert_int_equal(backing_reserve_file(&backing, RESERVE, "/nonexistent"), -ENOENT);
    assert_null(backing.base);
    assert_false(backing.is_file);
    assert_string_equal(backing.path, "");
}

ISOLATED(under_a_file_size_limit_no_file_is_made) {
    struct rlimit limit = {RESERVE - 1, RESERVE - 1};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct backing backing;
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), -EFBIG);
}

ISOLATED(a_file_size_limit_that_suffices_is_no_obstacle) {
    struct rlimit limit = {RESERVE, RESERVE};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct backing backing;
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, RESERVE - PAGE, RESERVE), 0);
    backing_discard(&backing);
}

ISOLATED(a_full_tmpfs_is_an_error_and_no_sigbus) {
    own_mounts();
    if (mount("none", scratch_directory(), "tmpfs", 0, "size=64k") != 0)
        isolated_skip("no tmpfs can be mounted: not permitted here");
    struct backing backing;
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, 0, 4 * PAGE), 0);
    memset(backing.base, 1, 4 * PAGE);
    assert_true(backing_commit(&backing, 4 * PAGE, 64 * PAGE) < 0);
    memset(backing.base, 2, 4 * PAGE); // what there was is still there
    backing_discard(&backing);
}

// Where a written page may need new room, as on a full btrfs, a store raises SIGBUS. hugetlbfs
// stands for those file systems: it can be mounted without a disk.
ISOLATED(on_a_file_system_that_may_lose_a_page_no_file_is_made) {
    own_mounts();
    if (mount("none", scratch_directory(), "hugetlbfs", 0, NULL) != 0)
        isolated_skip("no hugetlbfs can be mounted: not permitted here");
    struct backing backing;
    int before = lowest_free_fd();
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), -EOPNOTSUPP);
    assert_int_equal(lowest_free_fd(), before);
    assert_null(backing.base);
    char path[256];
    snprintf(path, sizeof path, "%s/%d-%" PRIu64 ".ledger", scratch_directory(), getpid(),
             process_start_time_ticks());
    assert_int_equal(access(path, F_OK), -1);
}

ISOLATED(a_commit_works_without_a_descriptor_to_spare) {
    struct backing backing;
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    char path[256];
    strcpy(path, backing.path);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_NOFILE, &none); // no descriptor left for anybody
    assert_int_equal(backing_commit(&backing, 0, 4 * PAGE), 0);
    memset(backing.base, 1, 4 * PAGE);
    unlink(path);
}

// mlockall(MCL_FUTURE) makes every usable page present: of what is only reserved, none may be.
static void assert_present_only_when_committed(struct backing *backing) {
    long before = kilobytes_of("VmRSS:");
    assert_int_equal(backing_commit(backing, 0, 16 * PAGE), 0);
    assert_true(kilobytes_of("VmRSS:") >= before + 16 * PAGE / 1024 / 2);
    assert_true(kilobytes_of("VmRSS:") < before + 1024);
    memset(backing->base, 1, 16 * PAGE);
    assert_int_equal(WTERMSIG(child_status(store, backing->base + 16 * PAGE)), SIGSEGV);
}

ISOLATED(in_locked_memory_a_private_reserve_is_not_present) {
    lock_memory();
    struct backing backing;
    long before = kilobytes_of("VmRSS:");
    assert_int_equal(backing_reserve_private(&backing, RESERVE), 0);
    assert_true(kilobytes_of("VmRSS:") < before + 1024);
    assert_present_only_when_committed(&backing);
    backing_discard(&backing);
}

ISOLATED(in_locked_memory_a_files_reserve_fills_no_tmpfs) {
    lock_memory();
    struct backing backing;
    struct stat status;
    long before = kilobytes_of("VmRSS:");
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_true(kilobytes_of("VmRSS:") < before + 1024);
    assert_int_equal(stat(backing.path, &status), 0);
    assert_true(status.st_blocks * 512 < 1 << 20);
    assert_present_only_when_committed(&backing);
    backing_discard(&backing);
}

// Two threads may commit overlapping ranges, and only the larger may fail.
ISOLATED(a_failed_commit_takes_nothing_away) {
    own_mounts();
    if (mount("none", scratch_directory(), "tmpfs", 0, "size=64k") != 0)
        isolated_skip("no tmpfs can be mounted: not permitted here");
    struct backing backing;
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, 0, 4 * PAGE), 0);
    assert_true(backing_commit(&backing, 0, 64 * PAGE) < 0);
    memset(backing.base, 2, 4 * PAGE);
    backing_discard(&backing);
}

static void a_renewed_file_is_new_and_at_the_same_addresses(void **state) {
    (void)state;
    struct backing backing;
    char old_path[256], text[16];
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    strcpy(old_path, backing.path);
    memcpy(backing.base, "old", 4);
    char *base = backing.base;
    assert_int_equal(backing_renew_file(&backing, scratch_directory()), 0);
    assert_ptr_equal(backing.base, base);
    assert_int_equal(WTERMSIG(child_status(store, base)), SIGSEGV); // nothing is usable yet
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    assert_int_equal(base[0], 0);
    memcpy(base, "fresh", 6);
    read_file(old_path, text, sizeof text);
    assert_string_equal(text, "old"); // the file is as it was
    read_file(backing.path, text, sizeof text);
    assert_string_equal(text, "fresh");
    unlink(old_path);
    backing_discard(&backing);
}

static void a_file_that_cannot_be_renewed_stays(void **state) {
    (void)state;
    struct backing backing;
    char path[256];
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    strcpy(path, backing.path);
    assert_int_equal(backing_renew_file(&backing, "/nonexistent"), -ENOENT);
    assert_true(backing.is_file);
    assert_string_equal(backing.path, path);
    backing.base[0] = 1;
    backing_discard(&backing);
}

static void private_memory_takes_a_files_place(void **state) {
    (void)state;
    struct backing backing;
    char path[256], text[16];
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    strcpy(path, backing.path);
    memcpy(backing.base, "old", 4);
    char *base = backing.base;
    assert_int_equal(backing_renew_private(&backing), 0);
    assert_ptr_equal(backing.base, base);
    assert_false(backing.is_file);
    assert_int_equal(backing_commit(&backing, 0, 2 * PAGE), 0);
    assert_int_equal(base[0], 0);
    memcpy(base, "fresh", 6);
    read_file(path, text, sizeof text);
    assert_string_equal(text, "old");
    unlink(path);
    backing_discard(&backing);
}

// The program's own memory, where ours was.
static char *take_place(const struct backing *backing, size_t from) {
    char *taken = mmap(backing->base + from, PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_equal(taken, backing->base + from);
    strcpy(taken, "theirs");
    return taken;
}

static void addresses_that_are_given_back_are_the_programs(void **state) {
    (void)state;
    struct backing backing;
    long size = kilobytes_of("VmSize:");
    assert_int_equal(backing_reserve_private(&backing, RESERVE), 0);
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    assert_true(backing_give_back(&backing, RESERVE / 2, RESERVE - 2 * PAGE));
    assert_true(backing_give_back(&backing, PAGE, RESERVE / 2)); // up to the hole
    assert_true(kilobytes_of("VmSize:") < size + 1024);
    assert_true(backing_has(&backing, backing.base));
    assert_true(backing_has(&backing, backing.base + RESERVE - 1));
    assert_false(backing_has(&backing, backing.base + RESERVE));
    assert_false(backing_has(&backing, backing.base + PAGE));
    assert_false(backing_has(&backing, backing.base - 1));
    char *theirs = take_place(&backing, 5 * PAGE);
    assert_int_equal(backing_commit(&backing, RESERVE - PAGE, RESERVE), 0);
    backing.base[RESERVE - 1] = 1;
    assert_false(backing_give_back(&backing, 5 * PAGE, 6 * PAGE)); // no more ours to give
    backing_discard(&backing);
    assert_string_equal(theirs, "theirs");
    munmap(theirs, PAGE);
}

static void a_renewed_one_has_the_same_holes(void **state) {
    (void)state;
    struct backing backing;
    char old_path[256], text[16];
    assert_int_equal(backing_reserve_file(&backing, RESERVE, scratch_directory()), 0);
    strcpy(old_path, backing.path);
    assert_true(backing_give_back(&backing, PAGE, RESERVE - PAGE));
    char *theirs = take_place(&backing, 5 * PAGE);
    assert_int_equal(backing_renew_file(&backing, scratch_directory()), 0);
    assert_int_equal(backing_commit(&backing, RESERVE - PAGE, RESERVE), 0);
    assert_int_equal(backing_commit(&backing, 0, PAGE), 0);
    memcpy(backing.base, "fresh", 6);
    read_file(backing.path, text, sizeof text); // the places in it are those of the memory
    assert_string_equal(text, "fresh");
    assert_int_equal(unlink(backing.path), 0);
    assert_int_equal(backing_renew_private(&backing), 0);
    assert_int_equal(backing_commit(&backing, RESERVE - PAGE, RESERVE), 0);
    backing.base[RESERVE - 1] = 1;
    assert_string_equal(theirs, "theirs");
    unlink(old_path);
    backing_discard(&backing);
    assert_string_equal(theirs, "theirs");
    munmap(theirs, PAGE);
}

static void there_are_only_so_many_holes(void **state) {
    (void)state;
    struct backing backing;
    assert_int_equal(backing_reserve_private(&backing, RESERVE), 0);
    size_t holes = 0;
    while (backing_give_back(&backing, (2 * holes + 1) * PAGE, (2 * holes + 2) * PAGE))
        holes++;
    assert_int_equal(holes, BACKING_RANGES_MAX - 1);
    assert_true(backing_has(&backing, backing.base + (2 * holes + 1) * PAGE)); // nothing was done
    backing_discard(&backing);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reserve_costs_addresses_and_no_memory),
        cmocka_unit_test(what_is_committed_is_usable_and_zero),
        cmocka_unit_test(a_file_is_private_named_after_the_process_and_keeps_no_descriptor),
        cmocka_unit_test(a_file_in_the_names_place_is_left_alone),
        cmocka_unit_test(a_directory_that_is_not_there_is_an_error),
        cmocka_unit_test(a_failed_reserve_leaves_nothing_to_discard),
        cmocka_unit_test(under_a_file_size_limit_no_file_is_made),
        cmocka_unit_test(a_file_size_limit_that_suffices_is_no_obstacle),
        cmocka_unit_test(a_full_tmpfs_is_an_error_and_no_sigbus),
        cmocka_unit_test(on_a_file_system_that_may_lose_a_page_no_file_is_made),
        cmocka_unit_test(a_commit_works_without_a_descriptor_to_spare),
        cmocka_unit_test(in_locked_memory_a_private_reserve_is_not_present),
        cmocka_unit_test(in_locked_memory_a_files_reserve_fills_no_tmpfs),
        cmocka_unit_test(a_failed_commit_takes_nothing_away),
        cmocka_unit_test(a_renewed_file_is_new_and_at_the_same_addresses),
        cmocka_unit_test(a_file_that_cannot_be_renewed_stays),
        cmocka_unit_test(private_memory_takes_a_files_place),
        cmocka_unit_test(addresses_that_are_given_back_are_the_programs),
        cmocka_unit_test(a_renewed_one_has_the_same_holes),
        cmocka_unit_test(there_are_only_so_many_holes),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("backing", tests, NULL, NULL);
}
