#include "track/addresses.h"
#include "base/sys.h"
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

HOT void address_copy(struct ledger_address *out, const struct sockaddr *address, socklen_t bytes) {
    if (UNLIKELY(!address) || UNLIKELY(bytes < sizeof(sa_family_t)))
        return;
    if (LIKELY(address->sa_family == AF_INET) && LIKELY(bytes >= sizeof(struct sockaddr_in))) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        *out = (struct ledger_address){.family = ADDRESS_INET, .port = ntohs(in.sin_port)};
        memcpy(out->ip, &in.sin_addr, sizeof in.sin_addr);
    } else if (address->sa_family == AF_INET6 &&
               bytes >= offsetof(struct sockaddr_in6, sin6_scope_id)) {
        struct sockaddr_in6 copy = {0};
        memcpy(&copy, address, bytes < sizeof copy ? bytes : sizeof copy);
        *out = (struct ledger_address){
            .family = ADDRESS_INET6, .port = ntohs(copy.sin6_port), .scope_id = copy.sin6_scope_id};
        memcpy(out->ip, &copy.sin6_addr, sizeof copy.sin6_addr);
    }
}

typedef uint32_t __attribute__((may_alias)) word;

_Static_assert(sizeof(struct ledger_address) % sizeof(word) == 0 &&
                   _Alignof(struct ledger_address) % _Alignof(word) == 0,
               "address_put() goes word by word");

HOT void address_put(struct ledger_address *out, const struct ledger_address *from) {
#pragma GCC unroll 8
    for (size_t i = 0; i < sizeof *out / sizeof(word); i++)
        __atomic_store_n((word *)out + i, ((const word *)from)[i], __ATOMIC_RELAXED);
}

static struct ledger_address get(const struct ledger_address *from) {
    struct ledger_address copy = {0};
    for (size_t i = 0; i < sizeof copy / sizeof(word); i++)
        ((word *)&copy)[i] = __atomic_load_n((const word *)from + i, __ATOMIC_RELAXED);
    return copy;
}

// SO_PEERNAME, and not getpeername: it also answers for a connection that was reset (inet_getname
// in net/ipv4/af_inet.c). It refuses room for more than the address is (sk_getsockopt).
static void ask(int fd, int family, struct ledger_address *local, struct ledger_address *peer) {
    struct sockaddr_in6 address = {0};
    unsigned bytes = sizeof address;
    if (sys_call(SYS_getsockname, fd, (long)&address, (long)&bytes, 0, 0, 0) == 0) {
        address_copy(local, (struct sockaddr *)&address, bytes);
        family = address.sin6_family;
    }
    bytes = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof address;
    if (sys_getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &address, &bytes) == 0)
        address_copy(peer, (struct sockaddr *)&address, bytes);
}

void address_ask(struct ledger_record *record, int fd) {
    ask(fd, record->family, &record->local, &record->peer);
}

// --- what is asked later ------------------------------------------------------------------------

// The record's number above the fd; 0 for none.
HOT_DATA uint64_t address_unsettled;

void address_note_end_now(uint32_t number, int fd) {
    address_settle();
    __atomic_store_n(&address_unsettled, (uint64_t)number << 32 | (uint32_t)fd, __ATOMIC_RELEASE);
}

void address_settle_now(void) {
    uint64_t unsettled = __atomic_exchange_n(&address_unsettled, 0, __ATOMIC_ACQ_REL);
    uint32_t number = (uint32_t)(unsettled >> 32);
    int fd = (int)(uint32_t)unsettled;
    if (number == 0 || ledger_fd(fd) != number)
        return; // closed since
    uint32_t held = ledger_fd_hold(fd);
    if (held == 0)
        return;
    struct ledger_record *record = ledger_record(held);
    struct ledger_address local = get(&record->local), peer = get(&record->peer);
    ask(fd, record->family, &local, &peer);
    // Whoever closes the number takes it off the table first, so the answers were this socket's.
    if (held == number && ledger_fd(fd) == number) {
        address_put(&record->local, &local);
        address_put(&record->peer, &peer);
    }
    ledger_release(held);
}
