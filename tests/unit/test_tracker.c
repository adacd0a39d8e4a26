// track/tracker: births, dups and deaths. The unwinder and the clock are fakes, sockets are real.
#include "base/options.h"
#include "fake_clock.h"
#include "fake_unwinder.h"
#include "ledger/memory.h"
#include "sockets.h"
#include "track/tracker.h"
#include "track/unasked.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const void *caller;
static int first_births;

static void expect_no_ledger(void) {
    assert_false(ledger_exists()); // a handler of SIGBUS comes in time
    assert_int_equal(first_births, 0);
}

static void count_first_birth(void) {
    assert_true(ledger_exists());
    first_births++;
}

static void make(void) {
    options_parse(NULL);
    tracker_before_ledger = expect_no_ledger;
    tracker_on_first_birth = count_first_birth;
    caller = fake_stack_set(1, 4, 0);
}

static int born(int family, int type) {
    int fd = socket(family, type, 0);
    assert_true(fd >= 0);
    tracker_born(fd, &(struct tracker_birth){
                         .call = CALL_SOCKET, .family = family, .type = type, .caller = caller});
    return fd;
}

static struct ledger_record *record_of(int fd) {
    uint32_t number = ledger_fd(fd);
    assert_int_not_equal(number, 0);
    return ledger_record(number);
}

static const struct ledger_counters *counters(void) {
    return &ledger.header->counters;
}

static void close_tracked(int fd) {
    tracker_closing(fd, NULL);
    close(fd);
}

// --- births -------------------------------------------------------------------------------------

ISOLATED(a_process_without_sockets_has_no_ledger) {
    make();
    tracker_closing(3, NULL);
    tracker_closing_range(0, ~0u, NULL);
    assert_int_equal(tracker_dup_begin(0), 0);
    tracker_dup_done(0, 5);
    tracker_replace_done(tracker_replace_begin(5, NULL), 5, true);
    tracker_read_failed(0, CALL_READ, ECONNRESET, caller);
    tracker_read_nothing(0, CALL_READ, caller);
    assert_false(ledger_exists());
    assert_false(tracker_active());
    assert_int_equal(first_births, 0);
}

ISOLATED(the_first_birth_is_told_once) {
    make();
    born(AF_INET, SOCK_STREAM);
    born(AF_INET, SOCK_STREAM);
    assert_int_equal(first_births, 1);
    assert_true(tracker_active());
}

ISOLATED(a_birth_records_what_is_known) {
    make();
    fake_clock_now_ns = 77;
    int fd = born(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK);
    const struct ledger_record *record = record_of(fd);
    assert_int_equal(record->inode, inode_of(fd));
    assert_int_equal(record->birth_ns, 77);
    assert_int_equal(record->birth_tid, syscall(SYS_gettid));
    assert_int_equal(record->birth_call, CALL_SOCKET);
    assert_int_equal(record->provenance, PROVENANCE_CREATED);
    assert_int_equal(record->family, AF_INET6);
    assert_int_equal(record->type, SOCK_STREAM); // without the flags
    assert_int_equal(ledger.stacks[record->birth_stack].depth, 4);
    assert_int_equal(ledger.stacks[record->birth_stack].opened, 1);
    assert_int_equal(record->holders, 1);
    assert_int_equal(counters()->born, 1);
}

ISOLATED(an_accepted_connection_knows_its_listeners_kind) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    tracker_born(pair.listener, &(struct tracker_birth){.call = CALL_SOCKET,
                                                        .family = AF_INET,
                                                        .type = SOCK_STREAM,
                                                        .protocol = IPPROTO_TCP,
                                                        .caller = caller});
    tracker_accepted(pair.listener, pair.ours, CALL_ACCEPT4, caller);
    const struct ledger_record *record = record_of(pair.ours);
    assert_int_equal(record->birth_call, CALL_ACCEPT4);
    assert_int_equal(record->family, AF_INET);
    assert_int_equal(record->type, SOCK_STREAM);
    assert_int_equal(record->protocol, IPPROTO_TCP);
    assert_int_equal(record->flags, RECORD_CONNECTED);
    assert_int_equal(record->peer.family, ADDRESS_NONE); // the report asks the kernel
    assert_int_equal(record_of(pair.listener)->holders, 1);
}

ISOLATED(an_accept_on_an_unknown_listener_is_a_birth_too) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    tracker_accepted(pair.listener, pair.ours, CALL_ACCEPT, caller);
    const struct ledger_record *record = record_of(pair.ours);
    assert_int_equal(record->family, 0); // the listener was never seen: not invented
}

ISOLATED(an_address_longer_or_shorter_than_it_says_does_no_harm) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct sockaddr_storage address;
    memset(&address, 0xff, sizeof address);
    for (socklen_t bytes = 0; bytes <= sizeof address; bytes++) {
        address.ss_family = bytes % 2 ? AF_INET : AF_INET6;
        tracker_connected(pair.ours, (struct sockaddr *)&address, bytes, 0, caller);
        if (bytes < sizeof(struct sockaddr_in))
            assert_int_equal(record_of(pair.ours)->peer.family, ADDRESS_NONE);
    }
    tracker_connected(pair.ours, (struct sockaddr *)&address, 100000, 0, caller);
    // No byte behind it is read: there is none.
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(mprotect(pages + 4096, 4096, PROT_NONE), 0);
    struct sockaddr_in *last = (void *)(pages + 4096 - sizeof *last);
    last->sin_family = AF_INET;
    last->sin_port = htons(80);
    tracker_connected(pair.ours, (struct sockaddr *)last, sizeof *last, 0, caller);
    assert_int_equal(record_of(pair.ours)->peer.port, 80);
}

// connect(2): "Connectionless sockets [and TCP] may dissolve the association by connecting to an
// address with the sa_family member of sockaddr set to AF_UNSPEC".
ISOLATED(a_dissolved_connection_is_none) {
    make();
    struct tcp_pair pair = tcp_pair(AF_INET);
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(80)};
    tracker_connected(pair.ours, (struct sockaddr *)&peer, sizeof peer, 0, caller);
    assert_int_equal(record_of(pair.ours)->flags, RECORD_CONNECTED);
    peer.sin_family = AF_UNSPEC;
    tracker_connected(pair.ours, (struct sockaddr *)&peer, sizeof peer, 0, caller);
    assert_int_equal(record_of(pair.ours)->flags, 0);
    assert_int_equal(record_of(pair.ours)->peer.family, ADDRESS_NONE);
}

ISOLATED(what_is_no_socket_is_no_birth) {
    make();
    int file = open("/dev/null", O_RDONLY);
    tracker_received(file, CALL_RECVMSG, caller);
    tracker_received(-1, CALL_RECVMSG, caller);
    tracker_accepted(0, file, CALL_ACCEPT, caller);
    assert_int_equal(ledger_fd(file), 0);
    assert_int_equal(counters()->born, 0);
}

// --- what is asked later ------------------------------------------------------------------------

// As behind that many births.
static void make_patient(void) {
    make();
    int first = born(AF_INET, SOCK_STREAM);
    ledger.header->counters.born += UNASKED_AFTER;
    ledger.header->counters.closed += UNASKED_AFTER;
    close_tracked(first);
}

ISOLATED(the_first_births_are_asked_at_once_and_later_ones_later) {
    make();
    for (int i = 0; i < UNASKED_AFTER; i++) {
        int fd = born(AF_INET, SOCK_STREAM);
        assert_int_equal(record_of(fd)->inode, inode_of(fd));
        close_tracked(fd);
    }
    int fd = born(AF_INET, SOCK_STREAM);
    assert_true(record_of(fd)->inode == LEDGER_INODE_UNASKED);
    assert_int_equal(unasked_inode(ledger_fd(fd), fd), inode_of(fd));
    assert_int_equal(record_of(fd)->inode, inode_of(fd));
    assert_int_equal(record_of(fd)->holders, 1);
}

ISOLATED(a_birth_behind_a_close_that_went_past_us_is_the_one_that_counts) {
    make_patient();
    int fd = born(AF_INET, SOCK_STREAM);
    uint32_t old = ledger_fd(fd);
    close(fd); // behind our back
    fake_clock_now_ns++;
    assert_int_equal(born(AF_INET, SOCK_STREAM), fd);
    assert_int_not_equal(ledger_fd(fd), old);
    assert_int_equal(ledger_record(old)->holders, 0);
    assert_int_equal(counters()->closed_unseen, 1);
    assert_int_equal(unasked_inode(ledger_fd(fd), fd), inode_of(fd));
    int next = born(AF_INET, SOCK_STREAM); // this program is not waited for any more
    assert_int_equal(record_of(next)->inode, inode_of(next));
}

// It was born earlier, and its thread comes later.
ISOLATED(a_birth_that_is_told_late_does_not_displace_the_numbers_next_owner) {
    make_patient();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct tracker_birth birth = {.call = CALL_SOCKET, .caller = caller};
    fake_clock_now_ns = 20;
    tracker_born(fd, &birth);
    uint32_t owner = ledger_fd(fd);
    fake_clock_now_ns = 10;
    tracker_born(fd, &birth);
    assert_int_equal(ledger_fd(fd), owner);
    assert_int_equal(record_of(fd)->holders, 1);
}

ISOLATED(a_dup_asks_first) {
    make_patient();
    int fd = born(AF_INET, SOCK_STREAM), copy = dup(fd);
    tracker_dup_done(tracker_dup_begin(fd), copy);
    assert_int_equal(record_of(copy)->inode, inode_of(fd));
    assert_int_equal(record_of(fd)->holders, 2);
}

static void *start(void *unused) {
    return unused;
}

static void keeps_its_origin(void *fd_pointer) {
    int fd = *(int *)fd_pointer;
    tracker_continue_in_child();
    assert_int_equal(record_of(fd)->inode, inode_of(fd));
}

ISOLATED(a_fork_of_a_program_with_threads_asks_first) {
    make_patient();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, start, NULL), 0);
    pthread_join(thread, NULL);
    int fd = born(AF_INET, SOCK_STREAM);
    tracker_before_fork();
    assert_int_equal(record_of(fd)->inode, inode_of(fd));
    child_must_pass(keeps_its_origin, &fd);
}

ISOLATED(who_uses_what_was_not_seen_born_is_not_waited_for) {
    make_patient();
    int unseen = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in peer = {.sin_family = AF_INET};
    tracker_connected(unseen, (struct sockaddr *)&peer, sizeof peer, 0, caller);
    int next = born(AF_INET, SOCK_STREAM);
    assert_int_equal(record_of(next)->inode, inode_of(next));
}

ISOLATED(what_is_no_socket_any_more_is_dropped_when_it_is_asked) {
    make_patient();
    int fd = born(AF_INET, SOCK_STREAM), file = open("/dev/null", O_RDONLY);
    uint32_t number = ledger_fd(fd);
    assert_int_equal(dup2(file, fd), fd); // behind our back
    assert_true(unasked_inode(number, fd) == LEDGER_INODE_UNASKED);
    assert_int_equal(ledger_fd(fd), 0);
    assert_int_equal(ledger_record(number)->holders, 0);
    assert_int_equal(counters()->closed_unseen, 1);
    assert_int_equal(counters()->closed, UNASKED_AFTER + 1); // as before
}

ISOLATED(what_stays_open_is_asked_for_its_inode_some_births_later) {
    make_patient();
    int kept = born(AF_INET, SOCK_STREAM);
    for (int i = 0; i < UNASKED_BIRTHS; i++) {
        assert_true(record_of(kept)->inode == LEDGER_INODE_UNASKED);
        close_tracked(born(AF_INET, SOCK_STREAM));
    }
    assert_int_equal(record_of(kept)->inode, inode_of(kept));
    int other = born(AF_INET, SOCK_STREAM); // in the numbers of those that are gone
    assert_true(record_of(other)->inode == LEDGER_INODE_UNASKED);
}

ISOLATED(a_received_socket_says_so) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    tracker_received(fd, CALL_RECVMMSG, caller);
    assert_int_equal(record_of(fd)->provenance, PROVENANCE_RECEIVED);
    assert_int_equal(record_of(fd)->birth_call, CALL_RECVMMSG);
    assert_int_not_equal(record_of(fd)->birth_stack, 0);
}

ISOLATED(a_birth_at_a_known_fd_ends_what_was_there) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    uint64_t old = record_of(fd)->inode;
    close(fd); // behind our back
    assert_int_equal(born(AF_INET, SOCK_STREAM), fd);
    assert_int_not_equal(record_of(fd)->inode, old);
    assert_int_equal(counters()->born, 2);
    assert_int_equal(counters()->closed_unseen, 1);
    assert_int_equal(counters()->closed, 0);
}

// As if a dup had returned `fd`, and another thread had closed that number, opened a socket there
// and told of it before the dup does.
ISOLATED(who_tells_late_of_a_number_does_not_displace_its_next_owner) {
    make();
    int late = born(AF_INET, SOCK_STREAM), fd = born(AF_INET, SOCK_STREAM);
    uint32_t owner = ledger_fd(fd);
    tracker_dup_done(tracker_dup_begin(late), fd);
    assert_int_equal(ledger_fd(fd), owner);
    assert_int_equal(record_of(fd)->holders, 1);
    assert_int_equal(record_of(late)->holders, 1);
    tracker_dup_done(0, fd); // of a file
    assert_int_equal(ledger_fd(fd), owner);
    assert_int_equal(record_of(fd)->holders, 1);
    assert_int_equal(counters()->closed_unseen, 0);
}

// Another thread has used the number, or a report found it, before the thread that opened the
// socket was here.
ISOLATED(a_birth_takes_over_from_who_does_not_know_the_origin_and_not_the_reverse) {
    static const enum ledger_provenance unknown[] = {PROVENANCE_ADOPTED, PROVENANCE_FOUND};
    make();
    for (int i = 0; i < 2; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct tracker_birth guess = {.provenance = unknown[i], .caller = caller};
        struct tracker_birth birth = {.call = CALL_SOCKET, .caller = caller};
        tracker_born(fd, &guess);
        tracker_born(fd, &birth);
        assert_int_equal(record_of(fd)->provenance, PROVENANCE_CREATED);
        tracker_born(fd, &guess);
        assert_int_equal(record_of(fd)->provenance, PROVENANCE_CREATED);
        assert_int_equal(record_of(fd)->holders, 1);
        assert_int_equal(ledger_open_sockets(), i + 1);
    }
}

ISOLATED(a_socket_that_was_closed_unseen_and_received_again_has_its_last_origin) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    tracker_received(fd, CALL_RECVMMSG, caller);
    assert_int_equal(record_of(fd)->birth_call, CALL_RECVMMSG);
    assert_int_equal(record_of(fd)->holders, 1);
    assert_int_equal(ledger_open_sockets(), 1);
    assert_int_equal(counters()->closed_unseen, 1);
}

enum {
    LATE_THREADS = 2,
    ROUNDS = 20000
};

static int contested;
static bool is_over;

static void *tell_late(void *fd) {
    while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED))
        tracker_dup_done(tracker_dup_begin(*(int *)fd), contested);
    return NULL;
}

// Threads that are late tell of a number, again and again, while its owner is there; in the end
// only the owner is.
static void contest(void (*body)(uint32_t owner)) {
    pthread_t threads[LATE_THREADS];
    int late[LATE_THREADS];
    make();
    for (int i = 0; i < LATE_THREADS; i++)
        late[i] = born(AF_INET, SOCK_STREAM);
    contested = born(AF_INET, SOCK_STREAM);
    uint32_t owner = ledger_fd(contested);
    for (int i = 0; i < LATE_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, tell_late, &late[i]), 0);
    body(owner);
    __atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
    for (int i = 0; i < LATE_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(ledger_fd(contested), owner);
    for (int i = 0; i < LATE_THREADS; i++)
        assert_int_equal(record_of(late[i])->holders, 1);
    assert_int_equal(record_of(contested)->holders, 1);
}

static void look_again_and_again(uint32_t owner) {
    for (int i = 0; i < ROUNDS * 50; i++)
        if (ledger_fd(contested) != owner)
            fail_msg("record %u in the place of %u", ledger_fd(contested), owner);
}

ISOLATED(who_is_late_is_not_there_for_a_moment) {
    contest(look_again_and_again);
}

static void leave_and_come_back(uint32_t owner) {
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t kept = tracker_replace_begin(contested, NULL);
        if (kept != owner)
            fail_msg("record %u in the place of %u", kept, owner);
        tracker_replace_done(kept, contested, false);
    }
}

ISOLATED(who_comes_while_several_are_late_stays) {
    contest(leave_and_come_back);
}

ISOLATED(without_room_for_records_the_fd_has_none_and_it_is_counted) {
    make();
    int first = born(AF_INET, SOCK_STREAM);
    struct ledger_region *records = &ledger.header->regions[LEDGER_RECORDS];
    ledger_extents[LEDGER_RECORDS].limit_bytes = records->committed_bytes;
    records->used = records->committed_bytes / sizeof(struct ledger_record);
    int fd = born(AF_INET, SOCK_STREAM);
    assert_int_equal(ledger_fd(fd), 0);
    assert_int_equal(counters()->untracked_records, 1);
    close_tracked(first);
    born(AF_INET, SOCK_STREAM); // a close makes room
    assert_int_equal(counters()->untracked_records, 1);
}

// --- deaths -------------------------------------------------------------------------------------

ISOLATED(a_close_ends_the_socket_and_is_counted_for_its_stack) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    uint32_t stack = record_of(fd)->birth_stack;
    close_tracked(fd);
    assert_int_equal(ledger_fd(fd), 0);
    assert_int_equal(counters()->closed, 1);
    assert_int_equal(ledger.stacks[stack].opened, 1);
    assert_int_equal(ledger.stacks[stack].closed, 1);
    close_tracked(fd); // EBADF: nothing of ours
    assert_int_equal(counters()->closed, 1);
}

ISOLATED(closing_what_was_never_told_of_is_nothing) {
    make();
    born(AF_INET, SOCK_STREAM);
    tracker_closing(-1, NULL);
    tracker_closing(INT32_MAX, NULL);
    tracker_closing(0, NULL);
    assert_int_equal(counters()->closed, 0);
}

ISOLATED(a_range_closes_both_its_ends_and_nothing_beyond) {
    make();
    int fds[5];
    for (int i = 0; i < 5; i++) {
        fds[i] = fcntl(0, F_DUPFD, 200 + i); // a row of numbers
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        dup2(fd, fds[i]);
        close(fd);
        tracker_received(fds[i], CALL_RECVMSG, caller);
    }
    tracker_closing_range((unsigned)fds[1], (unsigned)fds[3], NULL);
    for (int i = 0; i < 5; i++)
        assert_int_equal(ledger_fd(fds[i]) != 0, i == 0 || i == 4);
    tracker_closing_range(0, ~0u, NULL);
    assert_int_equal(counters()->closed, 5);
    tracker_closing_range(10, 5, NULL); // EINVAL for the kernel
}

// --- dup ----------------------------------------------------------------------------------------

static int dup_tracked(int fd) {
    uint32_t kept = tracker_dup_begin(fd);
    int copy = dup(fd);
    tracker_dup_done(kept, copy);
    return copy;
}

ISOLATED(dup_of_a_tracked_socket_counts_once) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    int copy = dup_tracked(fd);
    assert_int_equal(ledger_fd(copy), ledger_fd(fd));
    assert_int_equal(record_of(fd)->holders, 2);
    assert_int_equal(counters()->born, 1);
    close_tracked(fd);
    assert_int_equal(counters()->closed, 0); // the socket is still open
    assert_int_equal(record_of(copy)->holders, 1);
    close_tracked(copy);
    assert_int_equal(counters()->closed, 1);
}

ISOLATED(a_failed_dup_changes_nothing) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    tracker_dup_done(tracker_dup_begin(fd), -1);
    assert_int_equal(record_of(fd)->holders, 1);
}

ISOLATED(a_dup_of_a_file_ends_what_the_ledger_believed_at_its_number) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    close(fd); // behind our back
    uint32_t kept = tracker_dup_begin(0);
    assert_int_equal(dup(0), fd);
    tracker_dup_done(kept, fd);
    assert_int_equal(ledger_fd(fd), 0);
    assert_int_equal(counters()->closed_unseen, 1);
}

ISOLATED(a_dup_over_a_socket_closes_it) {
    make();
    int fd = born(AF_INET, SOCK_STREAM), other = born(AF_INET, SOCK_STREAM);
    uint32_t first = ledger_fd(fd), kept = tracker_dup_begin(fd);
    uint32_t replaced = tracker_replace_begin(other, NULL);
    assert_int_not_equal(replaced, 0);
    assert_int_equal(ledger_fd(other), 0);
    assert_int_equal(dup2(fd, other), other);
    tracker_replace_done(replaced, other, true);
    tracker_dup_done(kept, other);
    assert_int_equal(ledger_fd(other), first);
    assert_int_equal(record_of(fd)->holders, 2);
    assert_int_equal(counters()->closed, 1);
    assert_int_equal(counters()->closed_unseen, 0);
}

ISOLATED(a_failed_dup_over_a_socket_puts_it_back) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    uint32_t number = ledger_fd(fd), replaced = tracker_replace_begin(fd, NULL);
    tracker_replace_done(replaced, fd, false);
    assert_int_equal(ledger_fd(fd), number);
    assert_int_equal(record_of(fd)->holders, 1);
    assert_int_equal(counters()->closed, 0);
}

// While it was off the table, another thread told of a socket that had been closed again.
ISOLATED(what_is_put_back_does_not_give_way_to_what_is_late) {
    make();
    int late = born(AF_INET, SOCK_STREAM), fd = born(AF_INET, SOCK_STREAM);
    uint32_t owner = ledger_fd(fd), kept = tracker_replace_begin(fd, NULL);
    assert_int_equal(kept, owner);
    tracker_dup_done(tracker_dup_begin(late), fd);
    tracker_replace_done(kept, fd, false);
    assert_int_equal(ledger_fd(fd), owner);
    assert_int_equal(record_of(fd)->holders, 1);
    assert_int_equal(record_of(late)->holders, 1);
}

ISOLATED(what_was_put_back_gives_way_to_what_came_meanwhile) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    uint32_t old = ledger_fd(fd), replaced = tracker_replace_begin(fd, NULL);
    close(fd);
    assert_int_equal(born(AF_INET, SOCK_STREAM), fd); // by another thread
    uint32_t newer = ledger_fd(fd);
    tracker_replace_done(replaced, fd, false);
    assert_int_equal(ledger_fd(fd), newer);
    assert_int_equal(ledger_record(old)->holders, 0);
}

// --- fork and vfork -----------------------------------------------------------------------------

static void inherits(void *fd_pointer) {
    int fd = *(int *)fd_pointer;
    tracker_continue_in_child();
    assert_int_equal(owner_pid(), getpid());
    assert_int_equal(ledger.header->pid, getpid());
    assert_int_equal(counters()->born, 0);
    assert_int_not_equal(record_of(fd)->process, ledger.header->process);
    close_tracked(fd);
    int own = born(AF_INET, SOCK_STREAM);
    assert_int_equal(record_of(own)->birth_tid, syscall(SYS_gettid)); // not the parent's
    assert_int_equal(record_of(own)->process, ledger.header->process);
}

ISOLATED(a_forked_childs_closes_are_its_own) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    child_must_pass(inherits, &fd);
    assert_int_equal(counters()->closed, 0);
    assert_int_equal(record_of(fd)->inode, inode_of(fd));
}

static void is_noticed(void *fd_pointer) {
    int own = born(AF_INET, SOCK_STREAM); // no atfork handler ran
    assert_int_equal(ledger.header->pid, getpid());
    assert_int_equal(ledger.header->process, 2);
    assert_int_equal(record_of(own)->process, 2);
    assert_int_equal(record_of(*(int *)fd_pointer)->process, 1);
}

ISOLATED(a_fork_that_ran_no_handler_is_noticed_at_the_next_birth) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    child_must_pass(is_noticed, &fd);
}

ISOLATED(a_vfork_childs_closes_do_not_touch_the_parents_ledger) {
    make();
    int fd = born(AF_INET, SOCK_STREAM);
    owner_vfork_depth = 1;
    assert_false(tracker_active());
    tracker_closing(fd, NULL);
    tracker_closing_range(0, ~0u, NULL);
    int copy = dup(fd);
    tracker_dup_done(tracker_dup_begin(fd), copy);
    tracker_replace_done(tracker_replace_begin(fd, NULL), fd, true);
    tracker_received(fd, CALL_RECVMSG, caller);
    owner_vfork_depth = 0;
    assert_int_equal(record_of(fd)->holders, 1);
    assert_int_equal(record_of(fd)->birth_call, CALL_SOCKET);
    assert_int_equal(ledger_fd(copy), 0);
    assert_int_equal(counters()->closed, 0);
}

ISOLATED(errno_is_left_alone) {
    make();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    errno = EXDEV;
    tracker_received(fd, CALL_RECVMSG, caller);
    tracker_received(-1, CALL_RECVMSG, caller);
    tracker_dup_done(tracker_dup_begin(fd), -1);
    tracker_closing(fd, NULL);
    assert_int_equal(errno, EXDEV);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_without_sockets_has_no_ledger),
        cmocka_unit_test(the_first_birth_is_told_once),
        cmocka_unit_test(a_birth_records_what_is_known),
        cmocka_unit_test(an_accepted_connection_knows_its_listeners_kind),
        cmocka_unit_test(an_accept_on_an_unknown_listener_is_a_birth_too),
        cmocka_unit_test(an_address_longer_or_shorter_than_it_says_does_no_harm),
        cmocka_unit_test(a_dissolved_connection_is_none),
        cmocka_unit_test(what_is_no_socket_is_no_birth),
        cmocka_unit_test(the_first_births_are_asked_at_once_and_later_ones_later),
        cmocka_unit_test(a_birth_behind_a_close_that_went_past_us_is_the_one_that_counts),
        cmocka_unit_test(a_birth_that_is_told_late_does_not_displace_the_numbers_next_owner),
        cmocka_unit_test(a_dup_asks_first),
        cmocka_unit_test(a_fork_of_a_program_with_threads_asks_first),
        cmocka_unit_test(who_uses_what_was_not_seen_born_is_not_waited_for),
        cmocka_unit_test(what_is_no_socket_any_more_is_dropped_when_it_is_asked),
        cmocka_unit_test(what_stays_open_is_asked_for_its_inode_some_births_later),
        cmocka_unit_test(a_received_socket_says_so),
        cmocka_unit_test(a_birth_at_a_known_fd_ends_what_was_there),
        cmocka_unit_test(who_tells_late_of_a_number_does_not_displace_its_next_owner),
        cmocka_unit_test(a_birth_takes_over_from_who_does_not_know_the_origin_and_not_the_reverse),
        cmocka_unit_test(a_socket_that_was_closed_unseen_and_received_again_has_its_last_origin),
        cmocka_unit_test(who_is_late_is_not_there_for_a_moment),
        cmocka_unit_test(who_comes_while_several_are_late_stays),
        cmocka_unit_test(without_room_for_records_the_fd_has_none_and_it_is_counted),
        cmocka_unit_test(a_close_ends_the_socket_and_is_counted_for_its_stack),
        cmocka_unit_test(closing_what_was_never_told_of_is_nothing),
        cmocka_unit_test(a_range_closes_both_its_ends_and_nothing_beyond),
        cmocka_unit_test(dup_of_a_tracked_socket_counts_once),
        cmocka_unit_test(a_failed_dup_changes_nothing),
        cmocka_unit_test(a_dup_of_a_file_ends_what_the_ledger_believed_at_its_number),
        cmocka_unit_test(a_dup_over_a_socket_closes_it),
        cmocka_unit_test(a_failed_dup_over_a_socket_puts_it_back),
        cmocka_unit_test(what_is_put_back_does_not_give_way_to_what_is_late),
        cmocka_unit_test(what_was_put_back_gives_way_to_what_came_meanwhile),
        cmocka_unit_test(a_forked_childs_closes_are_its_own),
        cmocka_unit_test(a_fork_that_ran_no_handler_is_noticed_at_the_next_birth),
        cmocka_unit_test(a_vfork_childs_closes_do_not_touch_the_parents_ledger),
        cmocka_unit_test(errno_is_left_alone),
    };
    return cmocka_run_group_tests_name("tracker", tests, NULL, NULL);
}
