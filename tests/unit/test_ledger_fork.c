// ledger/ledger in a forked child: its own, with what was inherited.
#include "fd_table.h"
#include "ledger/ledger.h"
#include "unit.h"
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint32_t number;

static void open_one(int fd) {
    number = ledger_record_new();
    ledger_record(number)->inode = 4711;
    fd_table_put(fd, number);
    ledger.header->counters.born++;
}

static void close_one(int fd) {
    ledger_release(ledger_fd_take(fd));
}

static void begin_with(const char *directory) {
    assert_int_equal(ledger_create(directory, 32, NULL), 1);
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
    assert_int_equal(ledger_create("", 32, NULL), 1);
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

static void forget_file(void) {
    char name[160];
    snprintf(name, sizeof name, "%s/%u-%llu.ledger", scratch_directory(), (unsigned)getpid(),
             (unsigned long long)ledger.header->start_time_ticks);
    assert_int_equal(unlink(name), 0);
}

// Forks with or without our handlers; the parent closes its socket at once, as a server does that
// forks for each connection, and only then does the child look.
static void fork_and_close(bool prepare, void (*look)(void)) {
    int gate[2];
    begin_with(scratch_directory());
    assert_int_equal(pipe(gate), 0);
    if (prepare)
        ledger_prepare_fork();
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        assert_int_equal(read(gate[0], &byte, 1), 1);
        alarm(5);
        assert_int_equal(ledger_continue_in_child(), 0);
        look();
        forget_file();
        _exit(0);
    }
    ledger_fork_done_in_parent();
    close_one(3);
    open_one(7); // uses the record again
    ledger_record(number)->inode = 4712;
    assert_int_equal(write(gate[1], "", 1), 1);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    forget_file();
    assert_int_equal(status, 0);
    assert_int_equal(ledger_fd(3), 0);
    assert_int_equal(ledger_record(ledger_fd(7))->inode, 4712);
}

static void the_socket_is_there(void) {
    uint32_t held = ledger_fd_hold(3);
    assert_int_not_equal(held, 0);
    assert_int_equal(ledger_record(held)->inode, 4711);
    assert_int_equal(ledger_record(held)->holders, 2);
    assert_int_equal(ledger_fd(7), 0);
    assert_int_equal(ledger.header->counters.inherited, 1);
}

ISOLATED(what_the_parent_closes_after_the_fork_the_child_still_has) {
    fork_and_close(true, the_socket_is_there);
}

static void the_ledger_is_whole(void) {
    assert_int_equal(ledger_fd_hold(3), 0);
    open_one(4);
    assert_int_equal(ledger_record(number)->holders, 1);
}

ISOLATED(without_our_handlers_the_childs_late_copy_is_whole) {
    fork_and_close(false, the_ledger_is_whole);
}

enum {
    RECORDS = 20
};

static void goes_on_from_a_torn_copy(void *unused) {
    (void)unused;
    alarm(5);
    assert_int_equal(ledger_continue_in_child(), 0);
    assert_int_equal(ledger.header->counters.inherited, 2);
    assert_int_equal(ledger_fd(3), 1);
    assert_int_equal(ledger_fd(4), 2);
    assert_int_equal(ledger_fd(5), 0); // its record was freed
    assert_int_equal(ledger_fd(6), 0); // no such record
    assert_int_equal(ledger_record(2)->holders, 2);
    assert_true(ledger_release(ledger_fd_take(3))); // the thread that held it is not here
    bool seen[RECORDS + 1] = {[2] = true};
    for (int i = 0; i < RECORDS - 1; i++) { // each number once, until they are all in use
        uint32_t fresh = ledger_record_new();
        assert_true(fresh >= 1 && fresh <= RECORDS && !seen[fresh]);
        seen[fresh] = true;
    }
    assert_int_equal(ledger_record_new(), RECORDS + 1);
}

// What a copy may look like that was made while others changed the ledger.
static void tear(void) {
    for (int fd = 3; fd < 3 + RECORDS; fd++)
        open_one(fd);
    for (int fd = 7; fd < 3 + RECORDS; fd++)
        close_one(fd);
    assert_true(ledger_hold(1));       // by a thread in the middle of a call
    ledger.fds[8] = 2;                 // a dup that is not counted yet
    ledger_record(3)->inode = 0;       // freed
    ledger_record(3)->holders = 0;     //
    ledger.fds[6] = 123456;            // of a record that was not copied
    ledger.header->free_record = 1;    // in use
    ledger_record(10)->next_free = 10; // a circle
    ledger_record(12)->holders = 7;    // just freed
}

static void goes_on_in_a_file(void *unused) {
    goes_on_from_a_torn_copy(unused);
    assert_true(ledger_is_file());
    forget_file();
}

ISOLATED(a_torn_copy_is_made_whole) {
    assert_int_equal(ledger_create(scratch_directory(), 32, NULL), 1);
    tear();
    child_must_pass(goes_on_in_a_file, NULL);
    forget_file();
}

static void *start(void *unused) {
    return unused;
}

static void have_threads(void) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, start, NULL), 0);
    pthread_join(thread, NULL);
}

// A fork copies private memory, and not the threads that were at work on it.
ISOLATED(what_other_threads_were_in_the_middle_of_is_made_whole_in_private_memory) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
    have_threads();
    tear();
    child_must_pass(goes_on_from_a_torn_copy, NULL);
}

static void knows_what_was_asked(void *unused) {
    (void)unused;
    assert_int_equal(ledger_continue_in_child(), 0);
    assert_int_equal(ledger_fd(3), 1);
    assert_int_equal(ledger_fd(4), 0);
    assert_int_equal(ledger_record(2)->holders, 0);
    assert_int_equal(ledger.header->counters.inherited, 1);
}

// Another thread may have closed the number, and opened it anew, between the kernel's copy of the
// descriptors and that of the memory: without an inode nothing tells.
ISOLATED(of_other_threads_the_child_takes_over_only_what_has_its_inode) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
    have_threads();
    open_one(3);
    open_one(4);
    ledger_record(2)->inode = LEDGER_INODE_UNASKED;
    child_must_pass(knows_what_was_asked, NULL);
}

static void one_by_one(void *unused) {
    (void)unused;
    assert_int_equal(ledger_continue_in_child(), 0);
    for (uint32_t want = RECORDS; want > 4; want--) // last freed, first used: as it was
        assert_int_equal(ledger_record_new(), want);
    assert_int_equal(ledger_record_new(), RECORDS + 1);
}

ISOLATED(a_free_list_that_is_whole_stays_as_it_is) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
    have_threads();
    for (int fd = 3; fd < 3 + RECORDS; fd++)
        open_one(fd);
    for (int fd = 7; fd < 3 + RECORDS; fd++)
        close_one(fd);
    child_must_pass(one_by_one, NULL);
}

// How much of the records this process does not share with its parent any more.
static long own_kb(void) {
    char line[256];
    long kb = 0, total = 0;
    unsigned long first, end;
    bool inside = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &first, &end) == 2 && strchr(line, '-') < line + 17)
            inside = end > (unsigned long)ledger.records &&
                     first < (unsigned long)(ledger.records +
                                             ledger.header->regions[LEDGER_RECORDS].used);
        else if (inside && sscanf(line, "Private_Dirty: %ld kB", &kb) == 1)
            total += kb;
    }
    fclose(file);
    return total;
}

enum {
    MANY = 15000
};

static void shares_the_rest(void *unused) {
    (void)unused;
    assert_int_equal(ledger_continue_in_child(), 0);
    assert_int_equal(ledger.header->counters.inherited, MANY);
    assert_int_equal(ledger_record(7)->holders, 1);
    assert_true(own_kb() <= 64); // of 3 MB
}

ISOLATED(what_is_right_stays_shared_with_the_parent) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
    have_threads();
    for (int fd = 3; fd < 3 + MANY; fd++)
        open_one(fd);
    assert_true(ledger_hold(7)); // by a thread that is not there afterwards
    child_must_pass(shares_the_rest, NULL);
}

static rlim_t mappings(void) {
    rlim_t lines = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    for (int c; (c = getc(file)) != EOF;)
        lines += c == '\n';
    fclose(file);
    return lines;
}

ISOLATED(the_copy_is_given_back_in_the_parent) {
    begin_with(scratch_directory());
    mappings();
    rlim_t before = mappings();
    ledger_prepare_fork();
    assert_true(mappings() > before);
    ledger_prepare_fork(); // a signal handler forks, too
    ledger_fork_done_in_parent();
    assert_int_equal(mappings(), before);
    ledger_fork_done_in_parent();
    forget_file();
}

ISOLATED(private_memory_needs_no_copy) {
    ledger_prepare_fork(); // nor does a process without a ledger
    begin_with("");
    mappings();
    rlim_t before = mappings();
    ledger_prepare_fork();
    assert_int_equal(mappings(), before);
    ledger_fork_done_in_parent();
}

// --- a fork during the creation ------------------------------------------------------------------

static sem_t creating, go_on;

static void on_fault(int signal) {
    (void)signal;
    sem_post(&creating);
    while (sem_wait(&go_on) != 0)
        ;
}

static void *create_slowly(void *unreadable) {
    ledger_create(unreadable, 32, NULL);
    return NULL;
}

static void creates_at_once(void *unused) {
    (void)unused;
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    assert_int_equal(ledger_create("", 32, NULL), 1);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long us = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    assert_true(us < 40000);
}

// Another thread of the parent is held up while it reads the directory's name.
ISOLATED(a_creation_that_a_fork_left_behind_holds_nobody_up) {
    char *name = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    sem_init(&creating, 0, 0);
    sem_init(&go_on, 0, 0);
    signal(SIGSEGV, on_fault);
    pthread_create(&thread, NULL, create_slowly, name);
    sem_wait(&creating);
    child_must_pass(creates_at_once, NULL);
    mprotect(name, 4096, PROT_READ);
    sem_post(&go_on);
    pthread_join(thread, NULL);
    assert_true(ledger_exists());
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
        cmocka_unit_test(what_the_parent_closes_after_the_fork_the_child_still_has),
        cmocka_unit_test(without_our_handlers_the_childs_late_copy_is_whole),
        cmocka_unit_test(a_torn_copy_is_made_whole),
        cmocka_unit_test(what_other_threads_were_in_the_middle_of_is_made_whole_in_private_memory),
        cmocka_unit_test(of_other_threads_the_child_takes_over_only_what_has_its_inode),
        cmocka_unit_test(a_free_list_that_is_whole_stays_as_it_is),
        cmocka_unit_test(what_is_right_stays_shared_with_the_parent),
        cmocka_unit_test(the_copy_is_given_back_in_the_parent),
        cmocka_unit_test(private_memory_needs_no_copy),
        cmocka_unit_test(a_creation_that_a_fork_left_behind_holds_nobody_up),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("ledger_fork", tests, NULL, NULL);
}
