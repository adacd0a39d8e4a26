// Births, and a connection's second life.
#include "base/clock.h"
#include "ledger/sites.h"
#include "track/endings.h"
#include "track/stacks.h"
#include "track/tracking.h"
#include <errno.h>

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

// A call that makes a socket has made one; what came from elsewhere may be anything.
static HOT uint64_t inode_at_birth(int fd, enum ledger_provenance provenance) {
    return LIKELY(provenance == PROVENANCE_CREATED) && LIKELY(unasked_may_wait())
               ? LEDGER_INODE_UNASKED
               : unasked_socket_inode(fd);
}

static HOT FLAT NOINLINE void enter_born(int fd, uint32_t number, uint64_t inode) {
    number_enter(fd, number);
    if (LIKELY(inode == LEDGER_INODE_UNASKED) && LIKELY(number))
        unasked_note_birth(number, fd);
    tell_activity();
}

HOT void tracker_born(int fd, const struct tracker_birth *birth) {
    if (UNLIKELY(!tracking_begin()))
        return;
    address_settle();
    uint64_t inode = inode_at_birth(fd, birth->provenance);
    if (LIKELY(inode))
        enter_born(fd, new_record(inode, birth), inode);
}

void tracker_settle(void) {
    if (tracker_active() && tracking_go_on())
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
    if (UNLIKELY(!tracking_begin()))
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

COLD uint32_t birth_adopt(int fd, const void *caller) {
    tracker_born(fd, &(struct tracker_birth){
                         .call = CALL_UNKNOWN, .provenance = PROVENANCE_ADOPTED, .caller = caller});
    uint32_t number = ledger_fd_hold(fd);
    if (number) // born out of our sight
        __atomic_store_n(&unasked_never, true, __ATOMIC_RELAXED);
    return number;
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
    if (UNLIKELY(!tracking_begin()))
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
