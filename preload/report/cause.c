#include "report/cause.h"
#include "report/names.h"
#include "report/text.h"
#include "report/verdict.h"
#include <sys/socket.h>
#include <sys/syscall.h>

enum {
    // What the server closes this soon after the last use was not kept by it at all.
    AT_ONCE_MS = 1000
};

const char *cause_name(enum ledger_cause cause) {
    static const char *const names[CAUSE_COUNT] = {
        [CAUSE_UNKNOWN] = "unknown",     [CAUSE_FORGOTTEN] = "forgotten",
        [CAUSE_BLOCKED] = "blocked",     [CAUSE_IDLE_POOL] = "idle-pool",
        [CAUSE_INHERITED] = "inherited", [CAUSE_HALF_CLOSE] = "half-close",
    };
    return (unsigned)cause < CAUSE_COUNT ? names[cause] : names[CAUSE_UNKNOWN];
}

const char *cause_property_name(unsigned property) {
    switch (property) {
    case PROPERTY_NO_READ_TIMEOUT:
        return "no-read-timeout";
    case PROPERTY_NO_KEEPALIVE:
        return "no-keepalive";
    case PROPERTY_NO_CLOEXEC:
        return "no-cloexec";
    case PROPERTY_BLOCKING_MODE:
        return "blocking-mode";
    case PROPERTY_UNREAD_DATA:
        return "unread-data";
    default:
        return NULL;
    }
}

// --- the thread ---------------------------------------------------------------------------------

bool cause_is_stuck_call(int32_t system_call) {
    switch (system_call) {
    case SYS_read:
    case SYS_readv:
    case SYS_preadv2:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_write:
    case SYS_writev:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_connect:
    case SYS_ppoll: // of one descriptor, without a time limit, where it waits on an fd at all
#ifdef SYS_poll
    case SYS_poll:
#endif
    case SYS_wait4:
    case SYS_waitid:
        return true;
    default:
        return false;
    }
}

static uint64_t ms_between(uint64_t from_ns, uint64_t to_ns) {
    return from_ns && to_ns > from_ns ? (to_ns - from_ns) / 1000000 : 0;
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

// For how long the socket that a thread waits on has moved no data; 0 where that is not known.
static uint32_t silence_ms(const struct ledger_record *socket) {
    const struct ledger_snapshot *snapshot = &socket->snapshot;
    if (!(snapshot->flags & SNAPSHOT_HAS_TCP_INFO))
        return 0;
    return smaller(snapshot->last_data_sent_ms, snapshot->last_data_recv_ms);
}

// When the program could have closed: the end of stream that it read, or else the FIN.
static uint64_t chance_ms(const struct ledger_record *record) {
    return record->eof_ns ? ms_between(record->eof_ns, record->snapshot.taken_ns)
                          : record->snapshot.state_age_ms;
}

// The thread sits in a read, write or connect of another socket, which it had before, and which has
// been silent for as long as this one should have been closed: it never had a chance. A socket that
// moved data since tells of a thread that worked on.
static bool is_stuck_on_another(const struct ledger_record *record,
                                const struct cause_facts *facts) {
    const struct ledger_record *other = facts->waited_on;
    const struct ledger_snapshot *snapshot = &record->snapshot;
    if (!cause_is_stuck_call(snapshot->thread_call) || !other || other == record ||
        other->inode == record->inode || other->snapshot.state == STATE_LISTEN)
        return false;
    uint64_t chance = chance_ms(record), silent = silence_ms(other);
    uint64_t others_age = ms_between(other->birth_ns, snapshot->taken_ns);
    return others_age >= chance && silent >= facts->grace_ms && silent + facts->grace_ms >= chance;
}

// In a call on something that is no socket of the ledger: a pipe, a terminal, a child process. Only
// where nothing was read: after an end of stream this is what "went on" looks like.
static bool is_stuck_elsewhere(const struct ledger_record *record,
                               const struct cause_facts *facts) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    return record->eof_ns == 0 && cause_is_stuck_call(snapshot->thread_call) &&
           facts->waited_on == NULL && snapshot->thread_fd_type == 0 &&
           snapshot->thread_fd != record->first_fd;
}

static bool is_blocked(const struct ledger_record *record, const struct cause_facts *facts) {
    return record->snapshot.thread && record->snapshot.thread_call >= 0 &&
           (is_stuck_on_another(record, facts) || is_stuck_elsewhere(record, facts));
}

static bool went_on(const struct ledger_record *record) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    if (snapshot->flags & (SNAPSHOT_READER_WENT_ON | SNAPSHOT_READER_SEEN_SINCE))
        return true;
    if (snapshot->thread == 0 || snapshot->thread != record->eof_tid)
        return false;
    if (snapshot->thread_call == THREAD_CALL_GONE)
        return true;
    // A call on this very socket may be the answer to a half-close.
    return snapshot->thread_call >= 0 &&
           !(cause_is_stuck_call(snapshot->thread_call) && snapshot->thread_fd == record->first_fd);
}

// --- the cause ----------------------------------------------------------------------------------

static bool is_client(const struct ledger_record *record) {
    return record->birth_call == CALL_SOCKET &&
           ((record->flags & (RECORD_CONNECTED | RECORD_CONNECTING)) ||
            (record->snapshot.flags & SNAPSHOT_WAS_CONNECTED));
}

static bool was_used(const struct ledger_record *record) {
    const uint16_t both = SNAPSHOT_DATA_SENT | SNAPSHOT_DATA_RECEIVED;
    return (record->snapshot.flags & both) == both;
}

static bool is_idle(const struct ledger_record *record) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    bool waits_on_it =
        snapshot->thread && snapshot->thread_call >= 0 && snapshot->thread_fd == record->first_fd;
    return is_client(record) && was_used(record) && !waits_on_it;
}

static bool is_inherited(const struct ledger_record *record, const struct cause_facts *facts) {
    return facts->is_left_by_exec || record->fds_closed ||
           (facts->process && verdict_is_inherited(record, facts->process));
}

// Children close the copies that fork gave them, and this process does not close as many of its
// own: it forgets that it has them, too.
static bool is_kept_after_fork(const struct ledger_record *record,
                               const struct cause_facts *facts) {
    return record->eof_ns == 0 && facts->site && facts->closed_by_children > facts->site->closed &&
           !verdict_is_inherited(record, facts->process);
}

enum ledger_cause cause_of(const struct ledger_record *record, const struct cause_facts *facts) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    bool is_taken = snapshot->flags & SNAPSHOT_TAKEN;
    switch (snapshot->verdict) {
    case VERDICT_EOF_IGNORED:
        if (is_inherited(record, facts))
            return CAUSE_INHERITED;
        if (is_taken && is_blocked(record, facts))
            return CAUSE_BLOCKED;
        return went_on(record) ? CAUSE_FORGOTTEN : CAUSE_UNKNOWN;
    case VERDICT_FIN_UNREAD:
    case VERDICT_DATA_UNREAD:
        if (is_inherited(record, facts) || is_kept_after_fork(record, facts))
            return CAUSE_INHERITED;
        if (is_blocked(record, facts))
            return CAUSE_BLOCKED;
        return snapshot->verdict == VERDICT_FIN_UNREAD && is_idle(record) ? CAUSE_IDLE_POOL
                                                                          : CAUSE_UNKNOWN;
    case VERDICT_RESET_UNCLOSED:
    case VERDICT_SHUTDOWN_UNCLOSED:
        return is_inherited(record, facts) ? CAUSE_INHERITED : CAUSE_UNKNOWN;
    case VERDICT_OPEN:
        return verdict_is_answering(record, facts->grace_ms) ? CAUSE_HALF_CLOSE : CAUSE_UNKNOWN;
    default:
        return CAUSE_UNKNOWN;
    }
}

// --- in words -----------------------------------------------------------------------------------

static void say_thread(struct text_buffer *out, uint32_t thread) {
    text_string(out, "thread ");
    text_decimal(out, thread);
}

static void say_call(struct text_buffer *out, const struct ledger_snapshot *snapshot) {
    const char *name = name_of_system_call(snapshot->thread_call);
    if (name) {
        text_string(out, name);
    } else {
        text_string(out, "system call ");
        text_signed(out, snapshot->thread_call);
    }
    if (snapshot->thread_fd >= 0) {
        text_string(out, " on fd ");
        text_signed(out, snapshot->thread_fd);
    }
}

static void say_forgotten(struct text_buffer *out, const struct ledger_record *record,
                          const struct cause_facts *facts) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    say_thread(out, record->eof_tid);
    text_string(out, " read end of stream and went on");
    if (snapshot->thread == record->eof_tid && snapshot->thread_call == THREAD_CALL_GONE) {
        text_string(out, ", it has ended since");
    } else if (snapshot->thread == record->eof_tid && snapshot->thread_call >= 0) {
        text_string(out, ", it is in ");
        say_call(out, snapshot);
    }
    const struct ledger_stack *site = facts->site;
    if (!site || site->opened == 0)
        return;
    // All closed, and this one open: what was closed were a fork's other copies.
    if (site->closed && site->closed < site->opened) {
        text_string(out, "; closed properly ");
        text_decimal(out, site->closed);
        text_string(out, " of ");
        text_decimal(out, site->opened);
        text_string(out, " times from this call site: look for an early return");
    } else if (site->closed == 0) {
        text_string(out, "; never closed from this call site: look for the missing close");
    }
}

// And what to do about it.
static void say_time_limits(struct text_buffer *out, const struct ledger_record *socket) {
    const struct ledger_snapshot *snapshot = &socket->snapshot;
    const unsigned both = PROPERTY_NO_READ_TIMEOUT | PROPERTY_BLOCKING_MODE;
    bool is_known = (snapshot->properties_known & both) == both;
    if (snapshot->properties & PROPERTY_NO_READ_TIMEOUT) {
        text_string(out, ", with no read timeout");
        if (snapshot->properties & PROPERTY_NO_KEEPALIVE)
            text_string(out, " and no keepalive");
    } else if (is_known && (snapshot->properties & PROPERTY_BLOCKING_MODE)) {
        text_string(out, ", although a read timeout is set: it waits again and again, or not for "
                         "data");
        return;
    } else if (is_known) {
        text_string(out, ", in non-blocking mode");
    }
    text_string(out, ": give that call a time limit");
}

static void say_blocked(struct text_buffer *out, const struct ledger_record *record,
                        const struct cause_facts *facts) {
    const struct ledger_record *other = facts->waited_on;
    say_thread(out, record->snapshot.thread);
    text_string(out, record->eof_ns ? ", which read end of stream, is stuck in "
                                    : ", which opened it, is stuck in ");
    say_call(out, &record->snapshot);
    if (!other)
        return;
    if (other->peer.family != ADDRESS_NONE) {
        text_string(out, " (peer ");
        text_address(out, &other->peer);
        text_char(out, ')');
    }
    if (silence_ms(other)) {
        text_string(out, ", silent for ");
        text_age(out, silence_ms(other));
    }
    say_time_limits(out, other);
}

// "40 s": what is said of a pool's time limits needs no tenths.
static void say_idle_pool(struct text_buffer *out, const struct ledger_record *record) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    uint32_t unused_ms = smaller(snapshot->last_data_sent_ms, snapshot->last_data_recv_ms);
    uint32_t kept_ms = unused_ms > snapshot->state_age_ms ? unused_ms - snapshot->state_age_ms : 0;
    text_string(out, "the peer closed it ");
    if (kept_ms < AT_ONCE_MS) {
        text_string(out, "right after its last use, and nobody has looked since: the server keeps "
                         "no connections, so close behind the answer");
        return;
    }
    text_age(out, kept_ms);
    text_string(out, " after last use: the pool keeps connections longer than the server's "
                     "keep-alive");
}

static void say_inherited(struct text_buffer *out, const struct ledger_record *record,
                          const struct cause_facts *facts) {
    if (facts->is_left_by_exec) {
        text_string(out, "an earlier program opened it and left it open over exec: open it with "
                         "SOCK_CLOEXEC");
    } else if (facts->process && verdict_is_inherited(record, facts->process)) {
        text_string(out, "a fork left it here, and this process never used it: close it in the "
                         "child");
    } else if (!record->fds_closed && is_kept_after_fork(record, facts)) {
        text_string(out, "forked children closed their copies, and this process keeps its own: "
                         "close it after fork");
    } else {
        text_string(out, "closed on ");
        text_decimal(out, record->fds_closed);
        text_string(out, record->fds_closed == 1 ? " descriptor" : " descriptors");
        text_string(out, ", and a duplicate (fd ");
        text_signed(out, record->first_fd);
        text_string(out, ") keeps it open");
    }
}

void cause_sentence(struct text_buffer *out, enum ledger_cause cause,
                    const struct ledger_record *record, const struct cause_facts *facts) {
    switch (cause) {
    case CAUSE_FORGOTTEN:
        say_forgotten(out, record, facts);
        break;
    case CAUSE_BLOCKED:
        say_blocked(out, record, facts);
        break;
    case CAUSE_IDLE_POOL:
        say_idle_pool(out, record);
        break;
    case CAUSE_INHERITED:
        say_inherited(out, record, facts);
        break;
    case CAUSE_HALF_CLOSE:
        text_string(out, "the peer only shut down its side, and this program still sends: no leak "
                         "while data moves");
        break;
    default:
        break;
    }
}
