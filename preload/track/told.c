// What a program is told of a connection, and tells it: ends of stream, errors, shutdowns.
#include "base/clock.h"
#include "track/endings.h"
#include "track/stacks.h"
#include "track/tracking.h"
#include <errno.h>
#include <netinet/in.h>

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
    if (UNLIKELY(!tracking_begin()))
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
    if (!tracker_active() || !tracking_go_on())
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
    if (UNLIKELY(!tracking_begin()))
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
