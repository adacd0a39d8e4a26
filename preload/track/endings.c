#include "track/endings.h"
#include "base/clock.h"
#include "base/sys.h"
#include "base/tcp.h"
#include "ledger/sites.h"
#include "track/stacks.h"
#include "track/unasked.h"
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum {
    // tcpi_last_* count in the kernel's ticks of up to 10 ms (CONFIG_HZ=100): less is no waiting.
    WAIT_MIN_MS = 20,
    ACK_DELAY_MAX_MS = 500
};

enum {
    ENDING_ASK = 0xff // beside enum ledger_ending: the kernel knows
};

// TCP_INFO of an MPTCP socket is a subflow's. 0: not told at birth, see accept.
static bool may_be_tcp(const struct ledger_record *record) {
    return LIKELY(record->family == AF_INET || record->family == AF_INET6 || record->family == 0) &&
           LIKELY(record->type == SOCK_STREAM || record->type == 0) &&
           LIKELY(record->protocol != IPPROTO_MPTCP);
}

static bool was_connected(const struct tcp_info *info) {
    return info->tcpi_bytes_acked || info->tcpi_bytes_received || info->tcpi_rtt;
}

// --- end of stream ------------------------------------------------------------------------------

// Every segment has an ACK, the FIN too, and tcpi_last_ack_recv tells of the last one. That is the
// FIN, unless this side has sent behind it, and was acknowledged: within a round trip and the delay
// of an ACK (RFC 9293, 3.8.6.3: less than 0.5 s).
static void when_fin_came(const struct tcp_info *info, struct ending_eof *out) {
    uint64_t now = clock_now_ns(), age_ns = (uint64_t)info->tcpi_last_ack_recv * 1000000;
    uint64_t acknowledged_in_ms = ACK_DELAY_MAX_MS + info->tcpi_rtt / 1000;
    out->fin_ns = age_ns < now ? now - age_ns : 0;
    out->is_bound = info->tcpi_data_segs_out &&
                    info->tcpi_last_data_sent < info->tcpi_last_ack_recv + acknowledged_in_ms;
}

// What TCP_INFO says; false where the socket has none.
static bool ask_eof(int fd, struct ending_eof *out) {
    struct tcp_info info;
    *out = (struct ending_eof){0};
    if (!tcp_info_of(fd, &info))
        return false;
    switch (info.tcpi_state) {
    case STATE_CLOSE_WAIT:
        when_fin_came(&info, out);
        out->ended = true;
        break;
    case STATE_LAST_ACK:
    case STATE_CLOSING:
    case STATE_TIME_WAIT:
        out->ended = true;
        break;
    case STATE_CLOSE: // a refused connection reads 0, too, once its error was told
        out->ended = was_connected(&info);
        break;
    default:
        break;
    }
    return true;
}

// An accepted socket's type is that of its listener's record, and the number may have been
// another's by then; a received or adopted one's was not told at all.
static bool is_stream_by_kernel(int fd) {
    int type = 0;
    unsigned bytes = sizeof type;
    return sys_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_STREAM;
}

static inline bool is_type_told(const struct ledger_record *record) {
    return record->birth_call == CALL_SOCKET || record->birth_call == CALL_SOCKETPAIR;
}

HOT bool ending_is_stream(const struct ledger_record *record, int fd) {
    return LIKELY(record->type == SOCK_STREAM) ||
           (!is_type_told(record) && is_stream_by_kernel(fd));
}

// Has the stream of this fd ended? A read also returns 0 where a shutdown(SHUT_RD) that we did not
// see ended it (another process's), and where another thread closed the socket while this one was
// in its read, and opened another that has the number now. So the kernel is asked, once a socket:
// TCP by its state, and by poll what has none: AF_UNIX, and MPTCP, whose TCP_INFO is a subflow's.
bool ending_is_eof(const struct ledger_record *record, int fd, struct ending_eof *told) {
    *told = (struct ending_eof){0};
    // Which FIN went first was asked of the kernel at a shutdown, or is assumed there: another
    // system call in a socket's life would tell nothing that a verdict rests on.
    if (ledger_flags(record) & RECORD_FIN_FIRST)
        return true;
    if (ledger_flags(record) & RECORD_FIN_SECOND) {
        told->fin_ns = __atomic_load_n(&record->fin_ns, __ATOMIC_RELAXED);
        told->is_bound = ledger_flags(record) & RECORD_FIN_IS_BOUND;
        return true;
    }
    if (record->protocol != IPPROTO_MPTCP && ask_eof(fd, told))
        return told->ended;
    if (!is_type_told(record) && !is_stream_by_kernel(fd))
        return false;
    // Where the kernel does not answer, the read is believed.
    int seen = sys_poll_at_once(fd, POLLRDHUP);
    return seen < 0 || (seen & (POLLRDHUP | POLLHUP));
}

void ending_put_fin(struct ledger_record *record, const struct ending_eof *told) {
    __atomic_store_n(&record->fin_ns, told->fin_ns, __ATOMIC_RELAXED);
    if (told->is_bound)
        __atomic_fetch_or(&record->flags, RECORD_FIN_IS_BOUND, __ATOMIC_RELAXED);
}

void ending_forget_eof(struct ledger_record *record) {
    __atomic_store_n(&record->eof_ns, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&record->eof_stack, LEDGER_NO_STACK, __ATOMIC_RELAXED);
    __atomic_store_n(&record->eof_call, CALL_UNKNOWN, __ATOMIC_RELAXED);
    __atomic_store_n(&record->eof_tid, 0, __ATOMIC_RELAXED);
    __atomic_fetch_and(&record->flags, (uint16_t)~RECORD_TELLING_EOF, __ATOMIC_RELEASE);
}

// --- many of a kind -----------------------------------------------------------------------------

// A question to the kernel is the dearest part of a close, and of a shutdown; and a call site that
// closes hundreds a second tells no more by the last of them than by some. Of the sockets that one
// birth stack opened in the same LEDGER_RECENT_SLOT_S seconds the first EXACT are all asked for; of
// the others one in ASK_ONE_IN, and those behind it count as it did. Each close counts once, so all
// sums hold.
//
// Which one is asked looks random, since a program may well do two things by turns. Two stacks that
// share a place, and threads that write it at once, only ask more often.
enum {
    SAMPLES = 2048,
    EXACT = 64,
    ASK_ONE_IN = 64,
    SLOT_MASK = 0xffff
};

struct sample {
    uint64_t count; // birth stack << 32 | slot << 16 | how many
    uint64_t told;  // birth stack << 32 | the answer that was given last
};

static bool is_asked(uint32_t count) {
    return count <= EXACT || count * 0x9e3779b1u % (1u << 31) < (1u << 31) / ASK_ONE_IN;
}

// True where the kernel is to be asked, and not what it last told to be taken.
static inline bool sample_asks(struct sample *sample, const struct ledger_record *record,
                               uint32_t *told) {
    uint32_t slot = (uint32_t)(record->birth_ns / 1000000000 / LEDGER_RECENT_SLOT_S) & SLOT_MASK;
    uint64_t site = (uint64_t)record->birth_stack << 32;
    uint64_t before = __atomic_load_n(&sample->count, __ATOMIC_RELAXED);
    bool is_same = before >> 16 == (site | slot << 16) >> 16;
    uint32_t count = LIKELY(is_same) ? (uint32_t)before & SLOT_MASK : 0;
    uint32_t next = LIKELY(count < SLOT_MASK) ? count + 1 : EXACT + 1;
    __atomic_store_n(&sample->count, site | slot << 16 | next, __ATOMIC_RELAXED);
    uint64_t last = __atomic_load_n(&sample->told, __ATOMIC_RELAXED);
    *told = (uint32_t)last;
    return UNLIKELY(is_asked(count)) || UNLIKELY(last >> 32 != record->birth_stack);
}

static void sample_tell(struct sample *sample, const struct ledger_record *record, uint32_t told) {
    __atomic_store_n(&sample->told, (uint64_t)record->birth_stack << 32 | told, __ATOMIC_RELAXED);
}

static void mark_sampled(const struct ledger_record *record) {
    uint16_t *flags = &ledger.stacks[record->birth_stack].flags;
    if (UNLIKELY(!(__atomic_load_n(flags, __ATOMIC_RELAXED) & STACK_SAMPLED)))
        __atomic_fetch_or(flags, STACK_SAMPLED, __ATOMIC_RELAXED);
}

// --- shutdown -----------------------------------------------------------------------------------

static inline bool is_tcp_connection(const struct ledger_record *record) {
    return (ledger_flags(record) & RECORD_CONNECTED) &&
           (record->family == AF_INET || record->family == AF_INET6) &&
           record->type == SOCK_STREAM &&
           (record->protocol == 0 || record->protocol == IPPROTO_TCP);
}

// What TCP_INFO would say as well, for little more than half of the time: after the peer's FIN, or
// its reset, poll sees POLLRDHUP, and only after a reset an error or a hangup, too (tcp_poll in
// net/ipv4/tcp.c). POLLRDHUP may also come from a shutdown(SHUT_RD) of this side's.
static uint16_t fin_order_by_poll(int fd, bool may_be_believed) {
    int seen = sys_poll_at_once(fd, POLLRDHUP);
    if (seen >= 0 && !(seen & (POLLRDHUP | POLLHUP | POLLNVAL)))
        return RECORD_FIN_FIRST;
    return seen == POLLRDHUP && may_be_believed ? RECORD_FIN_SECOND : 0;
}

// Of the sockets that were shut down.
struct shut_samples {
    _Alignas(32) struct sample order; // RECORD_FIN_FIRST or RECORD_FIN_SECOND
    struct sample ending;             // of those where ours came first: some are reset behind it
};

static struct shut_samples *shut_samples_of(const struct ledger_record *record) {
    static LARGE struct shut_samples samples[SAMPLES];
    return &samples[record->birth_stack % SAMPLES];
}

// Only of what was accepted: the closes of a client are counted by destination, too, and those of
// one site may differ. And an assumed order is never found out later, so that a site whose sockets
// stay open, which may be leaks, is asked for each.
static HOT uint16_t assumed_order(const struct ledger_record *record) {
    bool is_accepted = record->birth_call == CALL_ACCEPT4 || record->birth_call == CALL_ACCEPT;
    uint32_t told;
    if (UNLIKELY(!is_accepted) || UNLIKELY(record->birth_stack == LEDGER_NO_STACK) ||
        sample_asks(&shut_samples_of(record)->order, record, &told) ||
        UNLIKELY(site_has_many_assumed(record)))
        return 0;
    mark_sampled(record);
    return (uint16_t)(told | RECORD_FIN_ASSUMED);
}

// Where our FIN will stand; 0 where that is not known.
static NOINLINE uint16_t fin_order_asked(struct ledger_record *record, int fd,
                                         bool may_be_believed) {
    struct tcp_info info;
    uint16_t seen = is_tcp_connection(record) ? fin_order_by_poll(fd, may_be_believed) : 0;
    if (seen && may_be_believed)
        sample_tell(&shut_samples_of(record)->order, record, seen);
    if (seen)
        return seen;
    if (!(ledger_flags(record) & (RECORD_CONNECTED | RECORD_CONNECTING)) || !tcp_info_of(fd, &info))
        return 0;
    if (info.tcpi_state == STATE_CLOSE_WAIT) {
        struct ending_eof told;
        when_fin_came(&info, &told);
        ending_put_fin(record, &told);
        return RECORD_FIN_SECOND;
    }
    bool is_open = info.tcpi_state == STATE_ESTABLISHED || info.tcpi_state == STATE_SYN_RECV;
    return is_open ? RECORD_FIN_FIRST : 0;
}

static inline uint16_t fin_order(struct ledger_record *record, int fd, bool may_be_believed) {
    uint16_t assumed = LIKELY(may_be_believed) ? assumed_order(record) : 0;
    if (LIKELY(assumed))
        return assumed;
    bool is_read = __atomic_load_n(&record->eof_ns, __ATOMIC_RELAXED) && // maybe just now
                   !(ledger_flags(record) & RECORD_EOF_UNASKED);
    return is_read ? RECORD_FIN_SECOND : fin_order_asked(record, fd, may_be_believed);
}

HOT void ending_note_fin_order(struct ledger_record *record, int fd, bool may_be_believed) {
    const uint16_t known = RECORD_SHUT_WR | RECORD_FIN_FIRST | RECORD_FIN_SECOND;
    if (UNLIKELY(!may_be_tcp(record)) || UNLIKELY(ledger_flags(record) & known))
        return;
    uint16_t order = fin_order(record, fd, may_be_believed);
    uint16_t before = __atomic_fetch_or(&record->flags, order, __ATOMIC_ACQ_REL);
    if (LIKELY(order & ~before & RECORD_FIN_ASSUMED))
        site_count_assumed(record);
}

void ending_forget_fin_order(struct ledger_record *record) {
    const uint16_t order = RECORD_FIN_FIRST | RECORD_FIN_SECOND | RECORD_FIN_ASSUMED;
    if (__atomic_fetch_and(&record->flags, (uint16_t)~order, __ATOMIC_ACQ_REL) & RECORD_FIN_ASSUMED)
        site_forget_assumed(record);
}

void ending_bound_fin(struct ledger_record *record, uint64_t now_ns) {
    const struct ending_eof by_now = {.fin_ns = now_ns, .is_bound = true};
    bool is_second =
        (ledger_flags(record) & (RECORD_FIN_SECOND | RECORD_FIN_ASSUMED)) == RECORD_FIN_SECOND;
    if (is_second && record->fin_ns == 0 && record->eof_ns == 0)
        ending_put_fin(record, &by_now);
}

// --- close --------------------------------------------------------------------------------------

// For how long a client's last bytes have had no answer; 0 where they had one, or nothing was sent.
// In the same tick the answer is taken to be the later one, unless there never was any.
static uint32_t waited_ms(const struct ledger_record *record, const struct tcp_info *info) {
    bool is_client = record->birth_call != CALL_ACCEPT && record->birth_call != CALL_ACCEPT4;
    bool is_unanswered =
        info->tcpi_data_segs_in == 0 || info->tcpi_last_data_sent < info->tcpi_last_data_recv;
    uint32_t ms = info->tcpi_last_data_sent;
    if (!is_client || info->tcpi_data_segs_out == 0 || !is_unanswered || ms < WAIT_MIN_MS ||
        ms <= info->tcpi_rtt / 1000) // an answer could not have come yet
        return 0;
    return ms < LEDGER_ENDING_WAITED_MAX_MS ? ms : LEDGER_ENDING_WAITED_MAX_MS;
}

// A close throws away data that was not read, with a reset and without TIME_WAIT (RFC 2525, 2.17).
// Only where data came at all, and of those closes only that are asked for.
static bool is_unread(int fd, const struct tcp_info *info) {
    int bytes = 0;
    return info->tcpi_data_segs_in &&
           sys_call(SYS_ioctl, fd, FIONREAD, (long)&bytes, 0, 0, 0) == 0 && bytes > 0;
}

// With a linger time of 0, a close sends a reset instead of a FIN (socket(7), SO_LINGER), also
// behind the FIN of a shutdown.
static bool is_aborted(int fd) {
    struct linger linger = {0};
    unsigned bytes = sizeof linger;
    return sys_getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &bytes) == 0 && linger.l_onoff &&
           linger.l_linger == 0;
}

// Of a connection that was shut down, and is no more.
static uint32_t ending_of_dead(const struct ledger_record *record, int fd) {
    if (!(ledger_flags(record) & RECORD_FIN_FIRST))
        return ENDING_UNKNOWN; // both FINs, in an order that we were not told
    return tcp_has_pending_error(fd) ? ENDING_RESET : ENDING_ACTIVE;
}

static uint32_t ending_by_state(const struct ledger_record *record, const struct tcp_info *info,
                                bool is_shared, int fd) {
    switch (info->tcpi_state) {
    case STATE_ESTABLISHED:
    case STATE_SYN_RECV:
    case STATE_FIN_WAIT1: // shut down, maybe by a call that we did not see
    case STATE_FIN_WAIT2:
    case STATE_CLOSING:
        if (is_shared) // a shutdown's FIN is no single holder's
            return ledger_flags(record) & RECORD_FIN_FIRST ? ENDING_ACTIVE : ENDING_SHARED;
        return is_unread(fd, info) || is_aborted(fd)
                   ? (uint32_t)ENDING_RESET
                   : LEDGER_ENDING(ENDING_ACTIVE, waited_ms(record, info));
    case STATE_CLOSE_WAIT:
    case STATE_LAST_ACK:
        return ENDING_PASSIVE;
    case STATE_SYN_SENT:
        return ENDING_CONNECTING;
    case STATE_CLOSE:
        if (ledger_flags(record) & RECORD_SHUT_WR)
            return ending_of_dead(record, fd);
        return (ledger_flags(record) & RECORD_CONNECTED) || was_connected(info) ? ENDING_RESET
                                                                                : ENDING_CONNECTING;
    default:
        return ENDING_UNKNOWN;
    }
}

// Of those that the program shut down first, and whose order was asked for. They are counted, and
// asked for, by themselves. Where the orders of a site are sampled they are the sample of the
// endings, too: asked for one and for the other.
static NOINLINE uint32_t ending_of_shut(const struct ledger_record *record) {
    struct shut_samples *of_site = shut_samples_of(record);
    uint64_t order = __atomic_load_n(&of_site->order.told, __ATOMIC_RELAXED);
    uint32_t told;
    bool is_sampled =
        order >> 32 == record->birth_stack && unasked_may_wait() && !site_has_many_assumed(record);
    if (sample_asks(&of_site->ending, record, &told) || is_sampled)
        return ENDING_ASK;
    mark_sampled(record);
    return told;
}

// And whose order was not asked for: it tells nothing, and is asked nothing.
static NOINLINE uint32_t ending_of_assumed(const struct ledger_record *record) {
    uint64_t told = __atomic_load_n(&shut_samples_of(record)->ending.told, __ATOMIC_RELAXED);
    return told >> 32 == record->birth_stack ? (uint32_t)told : ENDING_ACTIVE;
}

static struct sample *sample_of(const struct ledger_record *record) {
    static LARGE struct sample samples[SAMPLES];
    return &samples[record->birth_stack % SAMPLES];
}

// The ending that this one counts as; ENDING_ASK where the kernel is to be asked.
static HOT uint32_t ending_by_sample(const struct ledger_record *record) {
    uint32_t told;
    if (UNLIKELY(ledger_flags(record) & RECORD_FIN_FIRST))
        return ending_of_shut(record);
    if (sample_asks(sample_of(record), record, &told))
        return ENDING_ASK;
    mark_sampled(record);
    return told;
}

// What only some of a site's sockets have is asked of each; that they were shut down is none of it
// where ours is known to be the first FIN.
static inline bool is_alike(const struct ledger_record *record) {
    return LIKELY(record->forks == ledger.header->forks) &&
           (ledger_flags(record) & (RECORD_SHUT_WR | RECORD_FIN_FIRST)) != RECORD_SHUT_WR &&
           LIKELY(record->provenance != PROVENANCE_RECEIVED);
}

// --- the last close -----------------------------------------------------------------------------

// What is known without asking; else ENDING_ASK.
static HOT uint32_t ending_known(const struct ledger_record *record) {
    if (UNLIKELY(!may_be_tcp(record)))
        return ENDING_UNKNOWN;
    if (UNLIKELY(record->error) &&
        ((ledger_flags(record) & RECORD_CONNECTED) || record->error == ECONNRESET ||
         record->error == EPIPE)) // the others may also come from the attempt to connect
        return ENDING_RESET;
    if (UNLIKELY(ledger_flags(record) & RECORD_FIN_FIRST))
        return ledger_flags(record) & RECORD_FIN_ASSUMED ? ending_of_assumed(record) : ENDING_ASK;
    if (record->eof_ns || UNLIKELY(ledger_flags(record) & RECORD_FIN_SECOND))
        return ENDING_PASSIVE;
    if (UNLIKELY(ledger_flags(record) & RECORD_CONNECT_FAILED))
        return ENDING_CONNECTING;
    if (UNLIKELY(site_is_inherited(record)))
        return ENDING_SHARED;
    if (UNLIKELY(!(ledger_flags(record) & (RECORD_CONNECTED | RECORD_CONNECTING))))
        return record->provenance == PROVENANCE_RECEIVED ? ENDING_SHARED : ENDING_UNKNOWN;
    return ENDING_ASK;
}

static NOINLINE uint32_t ending_asked(const struct ledger_record *record, int fd) {
    // Who sent it to us may have kept it.
    bool is_shared =
        record->forks != ledger.header->forks || record->provenance == PROVENANCE_RECEIVED;
    struct tcp_info info;
    if (!tcp_info_of(fd, &info)) {
        if (ledger_flags(record) & RECORD_FIN_FIRST)
            return ENDING_ACTIVE;
        return record->provenance == PROVENANCE_RECEIVED ? ENDING_SHARED : ENDING_UNKNOWN;
    }
    uint32_t ending = ending_by_state(record, &info, is_shared, fd);
    if (!is_shared)
        sample_tell(ledger_flags(record) & RECORD_FIN_FIRST ? &shut_samples_of(record)->ending
                                                            : sample_of(record),
                    record, ending);
    return ending;
}

static NOINLINE void put_close_stack(const struct ledger_record *record, const void *caller) {
    __atomic_store_n(&ledger.stacks[record->birth_stack].close_stack, stack_capture(caller),
                     __ATOMIC_RELAXED);
}

static inline void note_close_stack(const struct ledger_record *record, const void *caller,
                                    uint64_t now_ns) {
    if (LEDGER_ENDING_KIND(record->ending) == ENDING_ACTIVE &&
        UNLIKELY(site_wants_close_stack(record->birth_stack, now_ns)))
        put_close_stack(record, caller);
}

HOT void ending_note(uint32_t number, int fd, const void *caller, uint64_t now_ns) {
    struct ledger_record *record = ledger_record(number);
    if (UNLIKELY(__atomic_load_n(&record->holders, __ATOMIC_ACQUIRE) > 1)) {
        // Another fd has it. Or only somebody who looks at it now, and then it ends as was noted
        // before: seldom, and not worth a system call for each dup.
        __atomic_fetch_add(&record->fds_closed, 1, __ATOMIC_RELAXED);
        return;
    }
    if (UNLIKELY(record->birth_stack == LEDGER_NO_STACK))
        return;
    uint32_t ending = ending_known(record);
    if (ending == ENDING_ASK) {
        if (LIKELY(is_alike(record)))
            ending = ending_by_sample(record);
        if (LIKELY(ending != ENDING_ASK)) {
            record->ending = ending;
            return;
        }
        ending = ending_asked(record, fd);
    }
    record->ending = ending;
    note_close_stack(record, caller, now_ns);
}
