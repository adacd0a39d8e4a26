// report/snapshot: what is open, by the kernel's word. The sockets are real.
#include "base/clock.h"
#include "fd_table.h"
#include "ledger/memory.h"
#include "report/snapshot.h"
#include "sockets.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct scratch scratch;
static struct snapshot snapshot;

static void make(void) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
    assert_int_equal(scratch_open(&scratch), 0);
}

static void take(enum ledger_ended ended) {
    assert_int_equal(snapshot_take(&snapshot, &scratch, ended), 0);
}

// As the tracker enters a birth.
static struct ledger_record *track(int fd, int family, int type) {
    uint32_t number = ledger_record_new();
    struct ledger_record *record = ledger_record(number);
    record->inode = inode_of(fd);
    record->birth_call = CALL_SOCKET;
    record->birth_ns = clock_now_ns();
    record->family = (uint16_t)family;
    record->type = (uint16_t)type;
    fd_table_put(fd, number);
    return record;
}

static uint32_t times_listed(const struct ledger_record *record) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < snapshot.socket_count; i++)
        count += ledger_record(snapshot.sockets[i]) == record;
    return count;
}

static struct ledger_record *listed(int fd) {
    struct ledger_record *found = NULL;
    for (uint32_t i = 0; i < snapshot.socket_count; i++)
        if (ledger_record(snapshot.sockets[i])->inode == inode_of(fd))
            found = ledger_record(snapshot.sockets[i]);
    assert_non_null(found);
    assert_int_equal(times_listed(found), 1);
    return found;
}

// --- what explains what -------------------------------------------------------------------------

ISOLATED(a_socket_born_out_of_sight_is_found_with_nothing_invented) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    peer_closes(&pair);
    take(ENDED_RUNNING);
    const struct ledger_record *record = listed(pair.ours);
    assert_int_equal(record->provenance, PROVENANCE_FOUND);
    assert_int_equal(record->birth_call, CALL_UNKNOWN);
    assert_int_equal(record->birth_ns, 0);
    assert_int_equal(record->birth_stack, 0);
    assert_int_equal(record->family, AF_INET);
    assert_int_equal(record->type, SOCK_STREAM);
    assert_int_equal(record->first_fd, pair.ours);
    assert_int_equal(record->snapshot.state, 8);
    snapshot_release(&snapshot);
    assert_ptr_equal(ledger_record(ledger_fd(pair.ours)), record); // known from now on
    assert_int_equal(record->holders, 1);
    take(ENDED_RUNNING);
    assert_ptr_equal(listed(pair.ours), record);
}

ISOLATED(holds_are_given_back) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct ledger_record *record = track(fd, AF_INET, SOCK_STREAM);
    take(ENDED_RUNNING);
    assert_true(record->holders > 1);
    snapshot_release(&snapshot);
    assert_int_equal(record->holders, 1);
}

ISOLATED(a_record_whose_fd_was_closed_behind_our_back_is_dropped) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct ledger_record *record = track(fd, AF_INET, SOCK_STREAM);
    close(fd);
    take(ENDED_RUNNING);
    assert_int_equal(times_listed(record), 0);
    assert_int_equal(ledger_fd(fd), 0);
    assert_int_equal(record->holders, 0);
    assert_int_equal(ledger.header->counters.closed_unseen, 1);
}

ISOLATED(a_record_whose_fd_became_a_file_or_another_socket_is_dropped) {
    make();
    int first = socket(AF_INET, SOCK_STREAM, 0), second = socket(AF_INET, SOCK_STREAM, 0);
    struct ledger_record *a = track(first, AF_INET, SOCK_STREAM);
    struct ledger_record *b = track(second, AF_INET, SOCK_STREAM);
    uint64_t old = b->inode;
    close(first);
    close(second);
    assert_int_equal(open("/dev/null", O_RDONLY), first);
    assert_int_equal(socket(AF_INET6, SOCK_STREAM, 0), second);
    take(ENDED_RUNNING);
    assert_int_equal(times_listed(a), 0);
    assert_int_equal(ledger_fd(first), 0);
    assert_int_equal(listed(second)->provenance, PROVENANCE_FOUND);
    assert_int_not_equal(listed(second)->inode, old);
    assert_int_equal(listed(second)->family, AF_INET6);
    assert_int_equal(ledger.header->counters.closed_unseen, 2);
}

// --- what was not asked for its inode yet -------------------------------------------------------

static struct ledger_record *track_unasked(int fd) {
    struct ledger_record *record = track(fd, AF_INET, SOCK_STREAM);
    record->inode = LEDGER_INODE_UNASKED;
    return record;
}

ISOLATED(what_was_not_asked_is_explained_by_its_fd) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct ledger_record *record = track_unasked(fd);
    take(ENDED_RUNNING);
    assert_ptr_equal(listed(fd), record);
    assert_int_equal(record->inode, inode_of(fd));
    assert_int_equal(ledger.header->counters.found, 0);
}

ISOLATED(what_was_not_asked_and_is_no_socket_any_more_is_dropped) {
    make();
    int file = socket(AF_INET, SOCK_STREAM, 0), gone = socket(AF_INET, SOCK_STREAM, 0);
    const struct ledger_record *a = track_unasked(file), *b = track_unasked(gone);
    close(gone);
    close(file);
    assert_int_equal(open("/dev/null", O_RDONLY), file);
    take(ENDED_RUNNING);
    assert_int_equal(times_listed(a) + times_listed(b), 0);
    assert_int_equal(ledger_fd(file) + ledger_fd(gone), 0);
    assert_int_equal(a->holders + b->holders, 0);
    assert_int_equal(ledger.header->counters.closed_unseen, 2);
}

// The lower number is first in the list, whether it is right or not.
ISOLATED(a_dup2_unseen_over_what_was_not_asked_leaves_the_origin_of_what_was) {
    make();
    for (int right_is_first = 0; right_is_first < 2; right_is_first++) {
        int low = socket(AF_INET, SOCK_STREAM, 0), high = socket(AF_INET, SOCK_STREAM, 0);
        int right = right_is_first ? low : high, wrong = right_is_first ? high : low;
        const struct ledger_record *stays = track(right, AF_INET, SOCK_STREAM);
        const struct ledger_record *goes = track_unasked(wrong);
        assert_int_equal(dup2(right, wrong), wrong);
        take(ENDED_RUNNING);
        assert_ptr_equal(listed(right), stays);
        assert_int_equal(stays->provenance, PROVENANCE_CREATED);
        assert_int_equal(times_listed(goes), 0);
        assert_int_equal(stays->fd_count, 2);
    }
}

ISOLATED(all_fds_of_a_socket_are_one) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int high = fcntl(fd, F_DUPFD, 300), low = dup(fd); // neither was told of
    struct ledger_record *record = track(high, AF_INET, SOCK_STREAM);
    take(ENDED_RUNNING);
    assert_int_equal(times_listed(record), 1);
    assert_int_equal(record->fd_count, 3);
    assert_int_equal(record->first_fd, fd);
    assert_int_equal(record->birth_call, CALL_SOCKET);
    snapshot_release(&snapshot);
    assert_int_equal(record->holders, 3);
    assert_int_equal(ledger_fd(low), ledger_fd(high));
}

// SCM_RIGHTS to oneself is a birth of what is there already.
ISOLATED(a_socket_with_two_births_is_one_and_knows_what_either_was_told) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0), copy = dup(fd);
    struct ledger_record *first = track(fd, AF_INET, SOCK_STREAM);
    struct ledger_record *second = track(copy, AF_INET, SOCK_STREAM);
    second->eof_ns = 5;
    second->eof_call = CALL_READ;
    take(ENDED_RUNNING);
    assert_ptr_equal(listed(fd), first);
    assert_int_equal(times_listed(second), 0);
    assert_int_equal(first->fd_count, 2);
    assert_int_equal(first->eof_ns, 5);
    assert_int_equal(first->eof_call, CALL_READ);
    snapshot_release(&snapshot);
    assert_int_equal(first->holders, 1);
    assert_int_equal(second->holders, 1);
}

ISOLATED(a_thousand_sockets_are_all_seen) {
    make();
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 1200 ? limit.rlim_max : 1200;
    setrlimit(RLIMIT_NOFILE, &limit);
    int count = 0, last = -1, fd;
    take(ENDED_RUNNING);
    uint32_t before = snapshot.socket_count;
    snapshot_release(&snapshot);
    while (count < 1000 && (fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0) {
        last = fd;
        count += 1;
    }
    take(ENDED_RUNNING);
    assert_int_equal(snapshot.socket_count, before + (uint32_t)count);
    listed(last);
}

ISOLATED(a_socket_that_is_only_a_standard_stream_says_so) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    dup2(pair.ours, 0);
    close(pair.ours);
    take(ENDED_RUNNING);
    assert_true(listed(0)->snapshot.flags & SNAPSHOT_STANDARD_STREAM);
    snapshot_release(&snapshot);
    dup(0); // a descriptor of its own beside it: the program's affair
    take(ENDED_RUNNING);
    assert_false(listed(0)->snapshot.flags & SNAPSHOT_STANDARD_STREAM);
}

// --- who read ----------------------------------------------------------------------------------

static bool reader_went_on(struct ledger_record *record, enum ledger_ended ended, uint32_t tid) {
    record->eof_ns = 1;
    record->eof_tid = tid;
    take(ended);
    snapshot_release(&snapshot);
    return record->snapshot.flags & SNAPSHOT_READER_WENT_ON;
}

static void *tell_tid(void *out) {
    *(uint32_t *)out = (uint32_t)syscall(SYS_gettid);
    return NULL;
}

static pthread_barrier_t barrier;

static void *tell_tid_and_stay(void *out) {
    tell_tid(out);
    pthread_barrier_wait(&barrier);
    pause();
    return NULL;
}

ISOLATED(the_reader_went_on_where_it_ends_the_process_or_is_gone) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct ledger_record *record = track(pair.ours, AF_INET, SOCK_STREAM);
    peer_closes(&pair);
    uint32_t own, gone, living;
    pthread_t thread;
    tell_tid(&own);
    pthread_create(&thread, NULL, tell_tid, &gone);
    pthread_join(thread, NULL);
    sleep_ms(50); // joined: the kernel may still be at it
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, tell_tid_and_stay, &living);
    pthread_barrier_wait(&barrier);
    assert_true(reader_went_on(record, ENDED_EXIT, own));
    assert_true(reader_went_on(record, ENDED_UNDERSCORE_EXIT, own));
    assert_false(reader_went_on(record, ENDED_SIGNAL, own)); // struck between read and close
    assert_false(reader_went_on(record, ENDED_RUNNING, own));
    assert_true(reader_went_on(record, ENDED_SIGNAL, gone));
    assert_true(reader_went_on(record, ENDED_RUNNING, gone));
    assert_false(reader_went_on(record, ENDED_EXIT, living));
}

// --- the parent --------------------------------------------------------------------------------

static void is_the_parents(void *fd) {
    assert_int_equal(ledger_continue_in_child(), 0);
    take(ENDED_EXIT);
    assert_true(listed(*(int *)fd)->snapshot.flags & SNAPSHOT_HELD_BY_PARENT);
}

struct handover {
    int fd;
    int parent_has_closed[2];
};

static void is_the_childs(struct handover *handover) {
    char byte;
    assert_int_equal(read(handover->parent_has_closed[0], &byte, 1), 1);
    assert_int_equal(ledger_continue_in_child(), 0);
    take(ENDED_EXIT);
    assert_false(listed(handover->fd)->snapshot.flags & SNAPSHOT_HELD_BY_PARENT);
}

ISOLATED(an_inherited_socket_that_the_parent_still_has_is_the_parents) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    track(pair.ours, AF_INET, SOCK_STREAM);
    peer_closes(&pair);
    child_must_pass(is_the_parents, &pair.ours);
}

// And the number that the parent has it by is free in the child: what a report opens gets that.
static void is_the_parents_by_another_number(void *fd) {
    int parents = *(int *)fd, ours = dup2(parents, 50), next;
    close(parents);
    while ((next = dup(0)) < parents)
        ;
    close(next);
    assert_int_equal(next, parents);
    is_the_parents(&ours);
}

ISOLATED(an_inherited_socket_is_the_parents_whatever_its_number_is_there) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    track(pair.ours, AF_INET, SOCK_STREAM);
    peer_closes(&pair);
    child_must_pass(is_the_parents_by_another_number, &pair.ours);
}

ISOLATED(an_inherited_socket_that_the_parent_closed_is_the_childs) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    track(pair.ours, AF_INET, SOCK_STREAM);
    peer_closes(&pair);
    struct handover handover = {.fd = pair.ours};
    assert_int_equal(pipe(handover.parent_has_closed), 0);
    pid_t pid = fork();
    if (pid == 0) {
        is_the_childs(&handover);
        _exit(0);
    }
    int status;
    close(pair.ours);
    assert_int_equal(write(handover.parent_has_closed[1], "x", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

// --- bad days -----------------------------------------------------------------------------------

ISOLATED(without_proc_the_fds_are_tried_one_by_one) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0), unknown = socket(AF_INET, SOCK_STREAM, 0);
    struct ledger_record *record = track(fd, AF_INET, SOCK_STREAM);
    own_mounts();
    if (mount("none", "/proc", "tmpfs", 0, NULL) != 0)
        isolated_skip("/proc cannot be covered: not permitted here");
    take(ENDED_RUNNING);
    assert_true(snapshot.proc_missing);
    assert_int_equal(times_listed(record), 1);
    assert_int_equal(listed(unknown)->provenance, PROVENANCE_FOUND);
}

// Beyond the limit, too: it may have been higher.
ISOLATED(without_a_descriptor_to_spare_every_fd_is_listed) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int high = dup2(socket(AF_INET, SOCK_STREAM, 0), 900);
    struct rlimit limit = {(rlim_t)fd + 1, (rlim_t)fd + 1};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    take(ENDED_RUNNING);
    assert_false(snapshot.proc_missing);
    assert_int_equal(snapshot.no_descriptor, 0);
    listed(fd);
    listed(high);
}

// No thread can be made by a process whose children belong to another PID namespace (clone(2),
// EINVAL).
ISOLATED(without_a_thread_to_list_them_the_fds_are_tried_one_by_one) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (unshare(CLONE_NEWPID) != 0)
        isolated_skip("no PID namespace may be made here");
    struct rlimit limit = {(rlim_t)fd + 1, (rlim_t)fd + 1};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    take(ENDED_RUNNING);
    assert_int_equal(snapshot.no_descriptor, -EMFILE);
    assert_false(snapshot.proc_missing);
    listed(fd);
}

ISOLATED(without_memory_it_says_so) {
    make();
    for (int i = 0; i < 100; i++)
        socket(AF_INET, SOCK_STREAM, 0);
    static char memory[64 << 10] __attribute__((aligned(16)));
    for (size_t bytes = 0; bytes < sizeof memory; bytes += 160) {
        struct scratch small = {.base = memory, .size_bytes = bytes};
        memset(memory, 0, sizeof memory);
        int error = snapshot_take(&snapshot, &small, ENDED_RUNNING);
        assert_true(error == -ENOMEM || snapshot.incomplete || snapshot.socket_count >= 100);
        if (error == 0)
            snapshot_release(&snapshot);
    }
}

ISOLATED(without_room_for_records_sockets_are_counted) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    track(fd, AF_INET, SOCK_STREAM);
    struct ledger_region *records = &ledger.header->regions[LEDGER_RECORDS];
    ledger_extents[LEDGER_RECORDS].limit_bytes = records->committed_bytes;
    records->used = records->committed_bytes / sizeof(struct ledger_record);
    take(ENDED_RUNNING);
    uint32_t before = snapshot.unrecorded;
    snapshot_release(&snapshot);
    socket(AF_INET, SOCK_STREAM, 0);
    take(ENDED_RUNNING);
    assert_int_equal(snapshot.unrecorded, before + 1);
    listed(fd);
}

ISOLATED(no_descriptor_stays_open_and_errno_is_left_alone) {
    make();
    socket(AF_INET, SOCK_STREAM, 0);
    int lowest = dup(0);
    close(lowest);
    errno = EXDEV;
    take(ENDED_RUNNING);
    assert_int_equal(errno, EXDEV);
    assert_int_equal(dup(0), lowest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_socket_born_out_of_sight_is_found_with_nothing_invented),
        cmocka_unit_test(holds_are_given_back),
        cmocka_unit_test(a_record_whose_fd_was_closed_behind_our_back_is_dropped),
        cmocka_unit_test(a_record_whose_fd_became_a_file_or_another_socket_is_dropped),
        cmocka_unit_test(what_was_not_asked_is_explained_by_its_fd),
        cmocka_unit_test(what_was_not_asked_and_is_no_socket_any_more_is_dropped),
        cmocka_unit_test(a_dup2_unseen_over_what_was_not_asked_leaves_the_origin_of_what_was),
        cmocka_unit_test(all_fds_of_a_socket_are_one),
        cmocka_unit_test(a_socket_with_two_births_is_one_and_knows_what_either_was_told),
        cmocka_unit_test(a_thousand_sockets_are_all_seen),
        cmocka_unit_test(a_socket_that_is_only_a_standard_stream_says_so),
        cmocka_unit_test(the_reader_went_on_where_it_ends_the_process_or_is_gone),
        cmocka_unit_test(an_inherited_socket_that_the_parent_still_has_is_the_parents),
        cmocka_unit_test(an_inherited_socket_is_the_parents_whatever_its_number_is_there),
        cmocka_unit_test(an_inherited_socket_that_the_parent_closed_is_the_childs),
        cmocka_unit_test(without_proc_the_fds_are_tried_one_by_one),
        cmocka_unit_test(without_a_descriptor_to_spare_every_fd_is_listed),
        cmocka_unit_test(without_a_thread_to_list_them_the_fds_are_tried_one_by_one),
        cmocka_unit_test(without_memory_it_says_so),
        cmocka_unit_test(without_room_for_records_sockets_are_counted),
        cmocka_unit_test(no_descriptor_stays_open_and_errno_is_left_alone),
    };
    return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
