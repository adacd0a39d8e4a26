// Connections that the tracker follows, all of one call site, and what the hooks tell it of them.
#ifndef SOCKLEAK_TESTS_UNIT_CONNECTIONS_H
#define SOCKLEAK_TESTS_UNIT_CONNECTIONS_H

#include "base/options.h"
#include "fake_clock.h"
#include "fake_unwinder.h"
#include "ledger/sites.h"
#include "sockets.h"
#include "track/tracker.h"

#define MS(n) ((uint64_t)(n)*1000000)
#define SECONDS(n) (MS(n) * 1000)

extern const void *caller;   // of what is told next
extern struct tcp_pair pair; // the connection at hand

void born(int fd, enum ledger_call call);

// At 100 s: `ours` was accepted, by the first call site.
void accepted(void);

// One more of the same call site becomes `pair`; what was there before stays open.
void accept_another(void);

// At 100 s: `ours` is a client of `peers`; and one more.
void connected(void);
void connect_another(void);

// Of the first birth.
const struct ledger_stack *site(void);

struct sockaddr_in address_of(int listener);

// As hooks/stream.c and hooks/close.c do it.
void read_once(int fd);
void shut_down(int fd, int how);
void close_ours(void);

// SO_LINGER of what will be closed.
void linger_ours(int seconds);

// How the connections of the call site ended.
struct counts {
    uint64_t passive, active, reset, connecting, shared;
};

void assert_counts(struct counts expected);

#endif
