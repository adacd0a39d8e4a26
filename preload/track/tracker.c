#include "track/tracker.h"
#include "base/clock.h"
#include "base/guard.h"
#include "base/options.h"
#include "base/process.h"
#include "base/sys.h"
#include "base/tcp.h"
#include "ledger/sites.h"
#include "track/addresses.h"
#include "track/endings.h"
#include "track/stacks.h"
#include "track/unasked.h"
#include "track/unwinder.h"
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>

void (*tracker_before_ledger)(void);
void (*tracker_on_first_birth)(void);
HOT_DATA void (*tracker_on_activity)(void);

static void tell_activity(void) {
    if (UNLIKELY(tracker_on_activity != NULL))
        tracker_on_activity();
}

// gettid is a system call, and a thread has one number for life (a forked child's is reset).
static HOT_THREAD_LOCAL uint32_t own_tid;

static HOT uint32_t thread_id(void) {
    if (UNLIKELY(own_tid == 0))
        own_tid = (uint32_t)sys_gettid();
    return own_tid;
}

// --- the process --------------------------------------------------------------------------------

static COLD void before_first_use(void) {
    owner_claim();
    if (tracker_before_ledger)
        tracker_before_ledger();
}

static COLD bool make_ledger(void) {
    int created =
        ledger_create(options.ledger_dir, (uint32_t)options.stack_depth, before_first_use);
    if (created == 1) {
        clock_init();
        ledger_note_options((uint32_t)options.families, (uint32_t)options.grace_ms,
                            (uint32_t)options.exit_grace_ms);
        if (tracker_on_first_birth)
            tracker_on_first_birth();
    }
    return created >= 0;
}

static COLD bool go_on_in_child(void) {
    tracker_continue_in_child();
    return ledger_exists();
}

// Where tracker_active(): false where a forked child could not have a ledger of its own.
static inline bool go_on(void) {
    return LIKELY(!owner_was_forked()) || go_on_in_child(); // _Fork or clone: no atfork handler ran
}

// Makes the ledger where there is none. False: there is none, or it is not ours.
static inline bool begin(void) {
    return !UNLIKELY(owner_is_other_process()) && (LIKELY(ledger_exists()) || make_ledger()) &&
           go_on();
}

void tracker_before_new_root(void) {
    // In the child of a fork the loader's lock may be another thread's, who is not in it. Without
    // libunwind stacks are one frame deep, and the report says so.
    if (begin() && process_is_single_threaded())
        unwinder_ready();
}

static void ask_before_fork(void) {
    if (tracker_active() && !process_is_single_threaded())
        unasked_end();
}

void tracker_before_fork(void) {
    ask_before_fork();
    ledger_prepare_fork();
}

void tracker_before_raw_fork(void) {
    ask_before_fork();
    tracker_note_fork();
}

void tracker_before_clone(unsigned long flags) {
    if (flags & CLONE_THREAD)
        return;
    if (!(flags & CLONE_VM)) {
        tracker_before_raw_fork();
        return;
    }
    tracker_note_fork();
    owner_expect_shared_memory();
}

void tracker_continue_in_child(void) {
    own_tid = 0;
    if (ledger_exists() && (ledger.header->counters.closed_unseen || ledger.header->counters.found))
        unasked_never = true; // the child counts from 0
    unwinder_continue_in_child();
    if (owner_pid() != 0) // also without a ledger: see owner_expect_shared_memory()
        owner_claim();
    if (ledger_exists())
        ledger_continue_in_child();
}

// --- records ------------------------------------------------------------------------------------

static bool knows_origin(const struct ledger_record *record) {
    return record->provenance == PROVENANCE_CREATED || record->provenance == PROVENANCE_RECEIVED;
}

// Is what stands at `fd` right, and `number` no better? A program that closes a number twice may
// close what another thread has just opened, before that thread is here; the number's next owner is
// here first then. And who adopts a socket in use may meet the birth that comes late. Of two births
// that both find the same socket there the last one stays: it may have been closed behind our back,
// and received again.
//
// Of two that were not asked for their inodes the one is right that was born last.
static bool is_settled(int fd, const struct ledger_record *there, uint32_t number) {
    uint64_t inode = unasked_socket_inode(fd), its_inode = ledger_inode(there);
    const struct ledger_record *other = ledger_record(number);
    uint64_t others_inode = number ? ledger_inode(other) : 0;
    if (inode == 0 || (its_inode != LEDGER_INODE_UNASKED && its_inode != inode))
        return false;
    if (others_inode == LEDGER_INODE_UNASKED)
        return its_inode == inode ? knows_origin(there) : there->birth_ns > other->birth_ns;
    return number == 0 || others_inode != inode || !knows_origin(other);
}

// Enters a record for `fd`, passing on its reference. What stood there was closed behind our back;
// a socket whose fd is beyond the table (counted) is out of our sight from here on, too.
//
// What is right never gives way to what is late, not even for a moment: it would be gone where
// another thread comes then that is late, too, or copies the number. So what stands there is held
// while the kernel is asked, which makes sure that its number is no other socket's meanwhile, and
// is replaced only if it still stands there. Each time around another thread has entered something.
static COLD void enter_beside(int fd, uint32_t number) {
    if (number && ledger_fd_reserve(fd) < 0) {
        ledger_release_vanished(number);
        return;
    }
    for (bool done = false; !done;) {
        uint32_t there = ledger_fd_hold(fd);
        bool stays = there == number || (there && is_settled(fd, ledger_record(there), number));
        done = stays || ledger_fd_replace(fd, there, number);
        if (there)
            ledger_release(there); // the look
        uint32_t gone = stays ? number : there;
        if (done && gone)
            ledger_release_vanished(gone);
    }
}

static inline void enter(int fd, uint32_t number) {
    if (UNLIKELY(number == 0) || UNLIKELY(!ledger_fd_put(fd, number)))
        enter_beside(fd, number);
}

// Through an fd, or two fds, of a socket two threads may tell of it at once. Who is last stays.
// Whoever holds a record, and is not alone with it as at birth and after the last close, writes
// what changes in it by this, and reads it by an atomic load.
#define PUT(record, field, value) __atomic_store_n(&(record)->field, value, __ATOMIC_RELAXED)

// This process does something with a socket: it is not only inherited any more.
static void touch(struct ledger_record *record) {
    PUT(record, process, ledger.header->process);
}

static HOT FLAT NOINLINE uint32_t new_record(uint64_t inode, const struct tracker_birth *birth) {
    uint64_t now_ns = clock_now_ns(); // before all else: it waits for what is under way
    uint32_t number = ledger_record_new();
    if (UNLIKELY(number == 0))
        return 0;
    struct ledger_record *record = ledger_record(number);
    ledger_set_inode(record, inode);
    record->birth_ns = now_ns;
    record->birth_tid = thread_id();
    record->birth_call = (uint8_t)birth->call;
    record->provenance = (uint8_t)birth->provenance;
    record->family = (uint16_t)birth->family;
    record->type = (uint16_t)(birth->type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK));
    record->protocol = (uint16_t)birth->protocol;
    // An adopted socket was opened elsewhere: the stack of its first use would be a false origin.
    if (LIKELY(birth->provenance != PROVENANCE_ADOPTED))
        record->birth_stack = stack_capture(birth->caller);
    record->forks = __atomic_load_n(&ledger.header->forks, __ATOMIC_RELAXED);
    ledger_count(&ledger.header->counters.born);
    site_count_opened(record);
    return number;
}

// --- births -------------------------------------------------------------------------------------

// A call that makes a socket has made one; what came from elsewhere may be anything.
static HOT uint64_t inode_at_birth(int fd, enum ledger_provenance provenance) {
    return LIKELY(provenance == PROVENANCE_CREATED) && LIKELY(unasked_may_wait())
               ? LEDGER_INODE_UNASKED
               : unasked_socket_inode(fd);
}

static HOT FLAT NOINLINE void enter_born(int fd, uint32_t number, uint64_t inode) {
    enter(fd, number);
    if (LIKELY(inode == LEDGER_INODE_UNASKED) && LIKELY(number))
        unasked_note_birth(number, fd);
    tell_activity();
}

HOT void tracker_born(int fd, const struct tracker_birth *birth) {
    if (UNLIKELY(!begin()))
        return;
    address_settle();
    uint64_t inode = inode_at_birth(fd, birth->provenance);
    if (LIKELY(inode))
        enter_born(fd, new_record(inode, birth), inode);
}

void tracker_settle(void) {
    if (tracker_active() && go_on())
        address_settle();
}

// Not held, which would be two atomics in each connection's life: where another thread closes the
// listener just now, parts of this may be another socket's, or 0. Of these the report asks the
// kernel, and a type that is no stream's is not believed (track/endings.c).
__attribute__((no_sanitize("thread"))) static inline void
take_kind(struct tracker_birth *birth, const struct ledger_record *listener) {
    birth->family = listener->family;
    birth->type = listener->type;
    birth->protocol = listener->protocol;
}

HOT void tracker_accepted(int listener, int fd, enum ledger_call call, const void *caller) {
    if (UNLIKELY(!begin()))
        return;
    address_settle();
    uint64_t inode = inode_at_birth(fd, PROVENANCE_CREATED);
    if (UNLIKELY(inode == 0))
        return;
    struct tracker_birth birth = {.call = call, .caller = caller};
    uint32_t from = ledger_fd(listener);
    if (LIKELY(from))
        take_kind(&birth, ledger_record(from));
    uint32_t number = new_record(inode, &birth);
    if (LIKELY(number))
        ledger_record(number)->flags = RECORD_CONNECTED;
    enter_born(fd, number, inode);
}

void tracker_received(int fd, enum ledger_call call, const void *caller) {
    tracker_born(fd, &(struct tracker_birth){
                         .call = call, .provenance = PROVENANCE_RECEIVED, .caller = caller});
}

// The record of an fd, held; made where there is none and the fd is a socket.
static COLD uint32_t adopt(int fd, const void *caller) {
    tracker_born(fd, &(struct tracker_birth){
                         .call = CALL_UNKNOWN, .provenance = PROVENANCE_ADOPTED, .caller = caller});
    uint32_t number = ledger_fd_hold(fd);
    if (number) // born out of our sight
        __atomic_store_n(&unasked_never, true, __ATOMIC_RELAXED);
    return number;
}

static HOT uint32_t hold_or_adopt(int fd, const void *caller) {
    uint32_t number = ledger_fd_hold(fd);
    return LIKELY(number) ? number : adopt(fd, caller);
}

// Of a former connection. Another thread may be told of its end just now.
static void forget_told(struct ledger_record *record) {
    ending_forget_fin_order(record);
    PUT(record, eof_ns, 0);
    PUT(record, error, 0);
    PUT(record, error_ns, 0);
    PUT(record, fin_ns, 0);
    PUT(record, shutdown_ns, 0);
    PUT(record, eof_stack, LEDGER_NO_STACK);
    PUT(record, error_stack, LEDGER_NO_STACK);
    PUT(record, shutdown_stack, LEDGER_NO_STACK);
    PUT(record, eof_call, CALL_UNKNOWN);
    PUT(record, error_call, CALL_UNKNOWN);
    PUT(record, eof_tid, 0);
}

HOT void tracker_connected(int fd, const struct sockaddr *peer, socklen_t peer_bytes, int error,
                           const void *caller) {
    if (UNLIKELY(!begin()))
        return;
    address_settle();
    uint32_t number = hold_or_adopt(fd, caller);
    if (UNLIKELY(number == 0))
        return;
    struct ledger_record *record = ledger_record(number);
    if (UNLIKELY(error == ECONNREFUSED || error == ETIMEDOUT || error == EHOSTUNREACH ||
                 error == ENETUNREACH))
        __atomic_fetch_or(&record->flags, RECORD_CONNECT_FAILED, __ATOMIC_RELAXED);
    // A socket may be connected again, or by AF_UNSPEC disconnected (connect(2)): what it was told
    // is history then.
    bool disconnected = LIKELY(error == 0) && peer && UNLIKELY(peer->sa_family == AF_UNSPEC);
    // The second call for a connection that was under way tells only that it was made since.
    if (UNLIKELY(ledger_flags(record) & RECORD_CONNECTING) && error == 0 && !disconnected) {
        __atomic_fetch_or(&record->flags, RECORD_CONNECTED, __ATOMIC_RELEASE);
        __atomic_fetch_and(&record->flags, (uint16_t)~RECORD_CONNECTING, __ATOMIC_RELEASE);
        touch(record);
    } else if (LIKELY(error == 0 || error == EINPROGRESS || error == EINTR)) {
        if (UNLIKELY(ledger_flags(record))) // each part of it is told with a flag of its own
            forget_told(record);
        touch(record);
        unsigned begun = error == 0 ? RECORD_CONNECTED : RECORD_CONNECTING;
        PUT(record, flags, (uint16_t)(disconnected ? 0 : begun));
        struct ledger_address address = {0};
        address_copy(&address, peer, peer_bytes);
        address_put(&record->peer, &address);
    }
    ledger_release(number);
}

// --- end of stream ------------------------------------------------------------------------------

// Two threads may be told of one socket's end at the same time: the first one writes it down.
static HOT bool claim(struct ledger_record *record, uint16_t flag) {
    return !(__atomic_fetch_or(&record->flags, flag, __ATOMIC_ACQ_REL) & flag);
}

// Of a TCP connection that is no other process's, too, and no file's, the first read that returned
// 0 is believed for the time being, unless more is known of it; and so is poll.
static HOT bool may_be_asked_later(const struct ledger_record *record) {
    const uint16_t more = RECORD_FIN_FIRST | RECORD_FIN_SECOND | RECORD_SHUT_WR | RECORD_SHUT_RD |
                          RECORD_SHUTTING_RD | RECORD_TELLING_EOF;
    return LIKELY((ledger_flags(record) & (RECORD_CONNECTED | more)) == RECORD_CONNECTED) &&
           LIKELY(record->family == AF_INET || record->family == AF_INET6) &&
           LIKELY(record->type == SOCK_STREAM) && LIKELY(record->protocol != IPPROTO_MPTCP) &&
           LIKELY(record->provenance == PROVENANCE_CREATED) &&
           LIKELY(record->forks == ledger.header->forks) && LIKELY(unasked_may_wait());
}

static NOINLINE bool is_eof_by_kernel(const struct ledger_record *record, int fd,
                                      struct ending_eof *told) {
    return ending_is_stream(record, fd) &&
           !(ledger_flags(record) & (RECORD_SHUT_RD | RECORD_SHUTTING_RD)) &&
           __atomic_load_n(&record->eof_ns, __ATOMIC_ACQUIRE) == 0 &&
           ending_is_eof(record, fd, told);
}

HOT void tracker_read_nothing(int fd, enum ledger_call call, const void *caller) {
    if (UNLIKELY(owner_is_other_process()))
        return;
    // read(2) ends for files too: a process without sockets does not look closer.
    if (UNLIKELY(!ledger_exists()) &&
        (call == CALL_READ || call == CALL_READV || call == CALL_PREADV2 || call == CALL_SPLICE))
        return;
    if (UNLIKELY(!begin()))
        return;
    uint32_t number = hold_or_adopt(fd, caller);
    if (UNLIKELY(number == 0))
        return;
    struct ledger_record *record = ledger_record(number);
    unasked_eof(record, fd); // told a second time
    struct ending_eof told;
    bool may_wait = may_be_asked_later(record);
    if ((LIKELY(may_wait) || is_eof_by_kernel(record, fd, &told)) &&
        LIKELY(claim(record, RECORD_TELLING_EOF))) {
        if (UNLIKELY(!may_wait))
            ending_put_fin(record, &told);
        PUT(record, eof_stack, stack_capture(caller));
        PUT(record, eof_call, (uint8_t)call);
        PUT(record, eof_tid, thread_id());
        address_note_end(number, fd);
        touch(record);
        __atomic_store_n(&record->eof_ns, clock_now_ns(), __ATOMIC_RELEASE);
        if (LIKELY(may_wait)) // last: whoever sees it may take all that back
            __atomic_fetch_or(&record->flags, RECORD_EOF_UNASKED, __ATOMIC_RELEASE);
    }
    ledger_release(number);
    tell_activity();
}

void tracker_read_failed(int fd, enum ledger_call call, int error, const void *caller) {
    if (error != ECONNRESET && error != EPIPE && error != ETIMEDOUT && error != EHOSTUNREACH &&
        error != ENETUNREACH && error != ECONNABORTED)
        return;
    if (!tracker_active() || !go_on())
        return;
    uint32_t number = ledger_fd_hold(fd);
    if (number == 0)
        return;
    struct ledger_record *record = ledger_record(number);
    if (ending_is_stream(record, fd) && __atomic_load_n(&record->error, __ATOMIC_ACQUIRE) == 0 &&
        claim(record, RECORD_TELLING_ERROR)) {
        PUT(record, error_stack, stack_capture(caller));
        PUT(record, error_call, (uint8_t)call);
        address_note_end(number, fd);
        PUT(record, error_ns, clock_now_ns());
        touch(record);
        __atomic_store_n(&record->error, (uint16_t)error, __ATOMIC_RELEASE);
    }
    ledger_release(number);
}

HOT uint32_t tracker_shutdown_begin(int fd, int how, const void *caller) {
    if (UNLIKELY(!begin()))
        return 0;
    uint32_t number = hold_or_adopt(fd, caller);
    struct ledger_record *record = ledger_record(number);
    if (number && how != SHUT_RD)
        ending_note_fin_order(record, fd, may_be_asked_later(record));
    // A read in another thread returns 0 as soon as the kernel has shut down: told now, it is not
    // taken for the peer's FIN.
    if (number && how != SHUT_WR)
        __atomic_fetch_or(&record->flags, RECORD_SHUTTING_RD, __ATOMIC_ACQ_REL);
    return number;
}

HOT void tracker_shutdown_done(uint32_t kept, int how, bool succeeded, const void *caller) {
    if (kept == 0)
        return;
    struct ledger_record *record = ledger_record(kept);
    uint16_t flags =
        (uint16_t)((how != SHUT_WR ? RECORD_SHUT_RD : 0) | (how != SHUT_RD ? RECORD_SHUT_WR : 0));
    if (succeeded) {
        // The first one, or the one that sent our FIN.
        if (__atomic_load_n(&record->shutdown_ns, __ATOMIC_RELAXED) == 0 ||
            (flags & RECORD_SHUT_WR & ~ledger_flags(record))) {
            uint64_t now_ns = clock_now_ns();
            PUT(record, shutdown_stack, stack_capture(caller));
            PUT(record, shutdown_ns, now_ns);
            ending_bound_fin(record, now_ns);
        }
        touch(record);
        __atomic_fetch_or(&record->flags, flags, __ATOMIC_RELEASE);
    } else {
        if (how != SHUT_WR)
            __atomic_fetch_and(&record->flags, (uint16_t)~RECORD_SHUTTING_RD, __ATOMIC_RELEASE);
        if (how != SHUT_RD && !(ledger_flags(record) & RECORD_SHUT_WR))
            ending_forget_fin_order(record);
    }
    ledger_release(kept);
}

// --- deaths -------------------------------------------------------------------------------------

// Takes the socket off the table, and asks how it ends while it is still there. A second thread
// that closes the same number meanwhile finds nothing in the table.
static HOT uint32_t take_off(int fd, const void *caller, uint64_t now_ns) {
    uint32_t was = ledger_fd_take(fd);
    if (LIKELY(was))
        ending_note(was, fd, caller, now_ns);
    return was;
}

static HOT FLAT NOINLINE void close_known(int fd, const void *caller) {
    tell_activity(); // not behind it: a report must not find the socket open, and in no table
    uint64_t now_ns = clock_now_ns();
    uint32_t was = take_off(fd, caller, now_ns);
    if (LIKELY(was))
        ledger_release_closed(was, now_ns);
}

HOT void tracker_closing(int fd, const void *caller) {
    if (tracker_active() && ledger_fd(fd) != 0 && go_on())
        close_known(fd, caller);
}

void tracker_closing_range(unsigned first, unsigned last, const void *caller) {
    if (!tracker_active() || !go_on())
        return;
    unsigned limit = (unsigned)ledger_fd_limit();
    for (unsigned fd = first; fd < limit && fd <= last; fd++)
        tracker_closing((int)fd, caller);
}

// --- dup ----------------------------------------------------------------------------------------

uint32_t tracker_dup_begin(int fd) {
    uint32_t number = tracker_active() && go_on() ? ledger_fd_hold(fd) : 0;
    // By two fds it is not known by its number any more. Not asked: another thread has just closed
    // it, and whose copy the dup makes is for a report to find out.
    if (number && UNLIKELY(unasked_inode(number, fd) == LEDGER_INODE_UNASKED)) {
        ledger_release(number);
        return 0;
    }
    return number;
}

void tracker_dup_done(uint32_t kept, int fd) {
    if (!tracker_active())
        return;
    if (fd >= 0)
        enter(fd, kept); // also where kept is 0: whatever was there is there no more
    else if (kept)
        ledger_release(kept);
}

uint32_t tracker_replace_begin(int fd, const void *caller) {
    bool is_known = tracker_active() && go_on() && ledger_fd(fd) != 0;
    return is_known ? take_off(fd, caller, clock_now_ns()) : 0;
}

void tracker_replace_done(uint32_t kept, int fd, bool replaced) {
    if (kept && replaced)
        ledger_release(kept);
    else if (kept && !ledger_fd_restore(fd, kept))
        enter(fd, kept); // another thread was here: one of the two is late
}
