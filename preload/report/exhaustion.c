#include "report/exhaustion.h"
#include "base/clock.h"
#include "base/options.h"
#include "base/owner.h"
#include "base/process.h"
#include "base/sys.h"
#include "base/tcp.h"
#include "ledger/ledger.h"
#include "report/text.h"
#include "report/trigger.h"
#include "track/addresses.h"
#include "track/tracker.h"
#include "track/unasked.h"
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/resource.h>

enum {
    NS_PER_S = 1000000000,
    NS_PER_MS = 1000000,
    RECENT_S = 60 // for as long as TIME_WAIT stands (TCP_TIMEWAIT_LEN, include/net/tcp.h)
};

// --- once per interval --------------------------------------------------------------------------

static uint64_t last_ns[EXHAUSTED_KINDS]; // of the last report of each kind; 0 for none
static int32_t last_pid;                  // whose these are: a forked child starts anew

static void continue_in_child(void) {
    int32_t self = owner_pid(), before = __atomic_load_n(&last_pid, __ATOMIC_RELAXED);
    if (before == self || !__atomic_compare_exchange_n(&last_pid, &before, self, false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return;
    for (int kind = 0; before && kind < EXHAUSTED_KINDS; kind++)
        __atomic_store_n(&last_ns[kind], 0, __ATOMIC_RELAXED);
}

static bool is_turn(enum ledger_exhaustion kind) {
    continue_in_child();
    uint64_t now = clock_now_ns(), last = __atomic_load_n(&last_ns[kind], __ATOMIC_RELAXED);
    return (last == 0 || now - last >= options.exhaustion_interval * NS_PER_S) &&
           __atomic_compare_exchange_n(&last_ns[kind], &last, now, false, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

static void report(struct exhaustion *exhaustion) {
    ledger_count(&ledger.header->counters.exhausted[exhaustion->kind]);
    if (!is_turn(exhaustion->kind))
        return;
    if (!trigger_exhausted(exhaustion)) // another report is being written: at the next occasion
        __atomic_store_n(&last_ns[exhaustion->kind], 0, __ATOMIC_RELAXED);
}

// --- errors -------------------------------------------------------------------------------------

static enum ledger_exhaustion kind_of(int error) {
    switch (error) {
    case EMFILE:
        return EXHAUSTED_PROCESS_FDS;
    case ENFILE:
        return EXHAUSTED_SYSTEM_FDS;
    case EADDRNOTAVAIL:
        return EXHAUSTED_PORTS;
    default:
        return EXHAUSTED_MEMORY;
    }
}

// EADDRNOTAVAIL of connect(2) also means that this machine has no address to speak to that peer
// from, as without IPv6. Then a datagram socket, which has ports of its own and sends nothing at a
// connect, gets the same error.
static bool has_address_for(const struct sockaddr *peer, socklen_t bytes) {
    struct sockaddr_in6 copy = {0};
    if (bytes < sizeof(struct sockaddr_in))
        return false;
    if (bytes > sizeof copy)
        bytes = sizeof copy;
    memcpy(&copy, peer, bytes);
    if (copy.sin6_family != AF_INET && copy.sin6_family != AF_INET6)
        return false;
    int fd = (int)sys_call(SYS_socket, copy.sin6_family, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0, 0);
    if (fd < 0)
        return false;
    long result = sys_call(SYS_connect, fd, (long)&copy, (long)bytes, 0, 0, 0);
    sys_close(fd);
    return result == 0;
}

static uint64_t descriptor_limit(void) {
    struct rlimit limit = {0};
    sys_call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0);
    return limit.rlim_cur;
}

static uint64_t number_at(const char **at, const char *end) {
    uint64_t number = 0;
    while (*at < end && (**at < '0' || **at > '9'))
        ++*at;
    const char *first = *at;
    while (*at < end && **at >= '0' && **at <= '9')
        ++*at;
    return text_parse(first, *at, UINT32_MAX, &number) ? number : 0;
}

static uint64_t local_ports(void) {
    char text[64];
    long len = process_read_file("/proc/sys/net/ipv4/ip_local_port_range", text, sizeof text);
    const char *at = text, *end = text + (len > 0 ? len : 0);
    uint64_t first = number_at(&at, end), last = number_at(&at, end);
    return first && last >= first ? last - first + 1 : 0;
}

// "TCP: inuse 5 orphan 0 tw 27 alloc 9 mem 2"
static uint64_t time_waits(void) {
    char text[1024];
    long len = process_read_file("/proc/thread-self/net/sockstat", text, sizeof text);
    const char *at = len > 0 ? memmem(text, (size_t)len, " tw ", strlen(" tw ")) : NULL;
    return at ? number_at(&at, text + len) : 0;
}

void exhaustion_failed(int error, const struct sockaddr *peer, socklen_t peer_bytes) {
    if (!tracker_active())
        return;
    int saved_errno = errno;
    struct exhaustion exhaustion = {.kind = kind_of(error), .error = error};
    if (exhaustion.kind == EXHAUSTED_PORTS) {
        if (!peer || !has_address_for(peer, peer_bytes))
            return;
        address_copy(&exhaustion.peer, peer, peer_bytes);
        exhaustion.limit = local_ports();
        exhaustion.time_wait = time_waits();
    }
    if (exhaustion.kind == EXHAUSTED_PROCESS_FDS)
        exhaustion.limit = descriptor_limit();
    report(&exhaustion);
    errno = saved_errno;
}

// --- thresholds ---------------------------------------------------------------------------------

// For how long the socket has been in CLOSE_WAIT; 0 where it is not. One getsockopt where no end of
// stream was read: what was read and not closed is there still, or was reset.
static uint64_t close_wait_ns(const struct ledger_record *record, int fd, uint64_t now) {
    if (record->type != SOCK_STREAM || (record->family != AF_INET && record->family != AF_INET6) ||
        record->error || (record->flags & RECORD_SHUT_WR))
        return 0;
    uint64_t since = record->fin_ns ? record->fin_ns : record->eof_ns;
    if (since)
        return now > since ? now - since : 1;
    struct tcp_info info;
    if (!(record->flags & (RECORD_CONNECTED | RECORD_CONNECTING)) || !tcp_info_of(fd, &info) ||
        info.tcpi_state != STATE_CLOSE_WAIT)
        return 0;
    return (uint64_t)info.tcpi_last_ack_recv * NS_PER_MS + 1;
}

struct close_waits {
    uint64_t count;
    bool any_due; // has passed leak_after since the last report of it
};

static struct close_waits look_for_close_waits(uint64_t now) {
    struct close_waits found = {0};
    uint64_t due_ns = options.leak_after * NS_PER_S;
    uint64_t reported_ns = __atomic_load_n(&last_ns[EXHAUSTED_LEAK_AFTER], __ATOMIC_RELAXED);
    int limit = ledger_fd_limit();
    for (int fd = 0; fd < limit; fd++) {
        uint32_t number = ledger_fd_hold(fd);
        if (number == 0)
            continue;
        unasked_eof(ledger_record(number), fd);
        uint64_t age = close_wait_ns(ledger_record(number), fd, now);
        ledger_release(number);
        found.count += age > 0;
        if (due_ns && age >= due_ns && (reported_ns == 0 || now - age + due_ns > reported_ns))
            found.any_due = true;
    }
    return found;
}

static bool is_next_second(uint64_t now) {
    static uint64_t looked_s;
    uint64_t second = now / NS_PER_S, last = __atomic_load_n(&looked_s, __ATOMIC_RELAXED);
    return second != last && __atomic_compare_exchange_n(&looked_s, &last, second, false,
                                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void look(void) {
    uint64_t sockets = ledger_open_sockets(), now = clock_now_ns();
    if (options.max_open && sockets >= options.max_open)
        report(&(struct exhaustion){.kind = EXHAUSTED_MAX_OPEN, .limit = options.max_open});
    bool many = options.max_close_wait && sockets >= options.max_close_wait;
    if ((!many && options.leak_after == 0) || !is_next_second(now))
        return;
    struct close_waits found = look_for_close_waits(now);
    if (many && found.count >= options.max_close_wait)
        report(&(struct exhaustion){.kind = EXHAUSTED_MAX_CLOSE_WAIT,
                                    .limit = options.max_close_wait});
    if (found.any_due)
        report(&(struct exhaustion){.kind = EXHAUSTED_LEAK_AFTER, .limit = options.leak_after});
}

static void on_activity(void) {
    int saved_errno = errno;
    look();
    errno = saved_errno;
}

void exhaustion_begin(void) {
    if (options.max_open || options.max_close_wait || options.leak_after)
        tracker_on_activity = on_activity;
}

// --- what is said -------------------------------------------------------------------------------

static uint64_t recent_active(const struct ledger_stack *stack, uint64_t now_ns) {
    uint32_t slot_now = (uint32_t)(now_ns / NS_PER_S / LEDGER_RECENT_SLOT_S);
    uint64_t count = 0;
    for (int i = 0; i < LEDGER_RECENT_SLOTS; i++)
        if (slot_now - (uint32_t)(stack->recent_active[i] >> 32) < RECENT_S / LEDGER_RECENT_SLOT_S)
            count += (uint32_t)stack->recent_active[i];
    return count;
}

static void find_most_active(struct exhaustion *out) {
    uint64_t now = clock_now_ns(), stacks = ledger.header->regions[LEDGER_STACKS].used;
    for (uint32_t id = 1; id < stacks; id++) {
        uint64_t count = recent_active(&ledger.stacks[id], now);
        if (count > out->of_stack) {
            out->of_stack = count;
            out->stack = id;
        }
    }
}

void exhaustion_count(struct exhaustion *out, const uint32_t *sockets, uint32_t count,
                      uint32_t *tally) {
    out->sockets = out->close_wait = out->of_stack = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct ledger_record *record = ledger_record(sockets[i]);
        out->sockets += record->fd_count;
        if (record->snapshot.state == STATE_CLOSE_WAIT)
            out->close_wait += record->fd_count;
    }
    if (out->kind == EXHAUSTED_PORTS) {
        find_most_active(out);
        return;
    }
    for (uint32_t i = 0; tally && i < count; i++) {
        const struct ledger_record *record = ledger_record(sockets[i]);
        bool counts = out->close_wait == 0 || record->snapshot.state == STATE_CLOSE_WAIT;
        if (!counts || record->birth_stack == LEDGER_NO_STACK)
            continue;
        tally[record->birth_stack] += record->fd_count;
        if (tally[record->birth_stack] > out->of_stack) {
            out->of_stack = tally[record->birth_stack];
            out->stack = record->birth_stack;
        }
    }
}

const char *exhaustion_when(const struct exhaustion *exhaustion) {
    switch (exhaustion->kind) {
    case EXHAUSTED_PROCESS_FDS:
        return "at EMFILE in";
    case EXHAUSTED_SYSTEM_FDS:
        return "at ENFILE in";
    case EXHAUSTED_PORTS:
        return "at EADDRNOTAVAIL in";
    case EXHAUSTED_MEMORY:
        return exhaustion->error == ENOMEM ? "at ENOMEM in" : "at ENOBUFS in";
    case EXHAUSTED_MAX_OPEN:
        return "at max_open in";
    case EXHAUSTED_MAX_CLOSE_WAIT:
        return "at max_close_wait in";
    default:
        return "at leak_after in";
    }
}

static void counted(struct text_buffer *out, uint64_t count, const char *one, const char *many) {
    text_decimal(out, count);
    text_string(out, count == 1 ? one : many);
}

static void say_descriptors(struct text_buffer *out, const struct exhaustion *e) {
    bool close_wait = e->close_wait > 0;
    uint64_t count = close_wait ? e->close_wait : e->sockets;
    text_decimal(out, count);
    if (e->kind == EXHAUSTED_PROCESS_FDS && e->limit) {
        text_string(out, " of ");
        text_decimal(out, e->limit);
        text_string(out, " descriptors are sockets");
    } else {
        text_string(out, count == 1 ? " descriptor is a socket" : " descriptors are sockets");
    }
    text_string(out, close_wait ? " in CLOSE_WAIT" : ", none in CLOSE_WAIT");
    if (e->of_stack) {
        text_string(out, ", ");
        text_decimal(out, e->of_stack);
        text_string(out, " of them from this stack");
    }
}

static void say_ports(struct text_buffer *out, const struct exhaustion *e) {
    text_string(out, "no free port for ");
    text_address(out, &e->peer);
    text_string(out, " (EADDRNOTAVAIL): ");
    if (e->limit) {
        text_decimal(out, e->limit);
        text_string(out, " in ip_local_port_range, ");
    }
    counted(out, e->time_wait, " socket in TIME_WAIT, ", " sockets in TIME_WAIT, ");
    counted(out, e->sockets, " open in this process", " open in this process");
    if (e->of_stack) {
        text_string(out, "; closed first in the last minute: ");
        text_decimal(out, e->of_stack);
        text_string(out, " from this stack");
    }
}

void exhaustion_sentence(struct text_buffer *out, const struct exhaustion *e) {
    switch (e->kind) {
    case EXHAUSTED_PORTS:
        say_ports(out, e);
        return;
    case EXHAUSTED_PROCESS_FDS:
        text_string(out, "too many open files (EMFILE): ");
        break;
    case EXHAUSTED_SYSTEM_FDS:
        text_string(out, "too many open files in the system (ENFILE): here ");
        break;
    case EXHAUSTED_MEMORY:
        text_string(out, e->error == ENOMEM ? "no memory (ENOMEM): "
                                            : "no buffer space for sockets (ENOBUFS): ");
        break;
    case EXHAUSTED_MAX_OPEN:
        text_string(out, "max_open=");
        text_decimal(out, e->limit);
        text_string(out, " is reached: ");
        break;
    case EXHAUSTED_MAX_CLOSE_WAIT:
        text_string(out, "max_close_wait=");
        text_decimal(out, e->limit);
        text_string(out, " is reached: ");
        break;
    default:
        text_string(out, "a socket has been in CLOSE_WAIT for longer than leak_after=");
        text_decimal(out, e->limit);
        text_string(out, " s; of any age, ");
        break;
    }
    say_descriptors(out, e);
}
