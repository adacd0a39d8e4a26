// The places from which the stress opens sockets and reads: one function each, so that a stack
// tells which it was. sites.def lists them.
#ifndef SOCKLEAK_TESTS_STRESS_SITES_H
#define SOCKLEAK_TESTS_STRESS_SITES_H

#include "ledger/ledger_format.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

enum {
    STRESS_BUFFER_BYTES = 4096,
    STRESS_RESERVED_FD = 900, // from here on they are the test's own: no operation aims at them
};

enum site_id {
    SITE_NONE,
#define SOCKET_SITE(name, call, expression) SITE_##name,
#define PAIR_SITE(name, call, expression) SITE_##name,
#define ACCEPT_SITE(name, call, expression) SITE_##name,
#define FETCH_SITE(name, call, expression) SITE_##name,
#define MESSAGE_SITE(name, call, expression) SITE_##name,
#define READ_SITE(name, call, expression) SITE_##name,
#include "sites.def"
#undef SOCKET_SITE
#undef PAIR_SITE
#undef ACCEPT_SITE
#undef FETCH_SITE
#undef MESSAGE_SITE
#undef READ_SITE
    SITE_COUNT
};

_Static_assert(SITE_COUNT < 64, "sets of sites are 64 bits");

struct site {
    const char *name;
    enum ledger_call call;
    uintptr_t start, end; // of the function's code
    void (*function)(void);
};

extern const struct site sites[SITE_COUNT];

// What the functions are called as.
typedef int socket_site(int domain, int type, int protocol);
typedef int pair_site(int domain, int type, int fds[2]);
typedef int accept_site(int listener);
typedef int fetch_site(int pidfd, int fd);
typedef ssize_t message_site(int fd, struct mmsghdr *message);
typedef ssize_t read_site(int fd, void *buffer, size_t len);

enum {
    SOCKET_SITES_FIRST = SITE_socket_first,
    SOCKET_SITES_END = SITE_pair_first,
    PAIR_SITES_FIRST = SITE_pair_first,
    PAIR_SITES_END = SITE_accept_first,
    ACCEPT_SITES_FIRST = SITE_accept_first,
    ACCEPT_SITES_END = SITE_fetch_first,
    FETCH_SITES_FIRST = SITE_fetch_first,
    FETCH_SITES_END = SITE_message_by_recvmsg,
    MESSAGE_SITES_FIRST = SITE_message_by_recvmsg,
    MESSAGE_SITES_END = SITE_read_by_read,
    READ_SITES_FIRST = SITE_read_by_read,
    READ_SITES_END = SITE_COUNT,
};

// The site that made the call of which this is the ledger's stack, or SITE_NONE.
enum site_id site_of_stack(uint32_t stack);

// A pipe's writing end, for splice: this thread's. Emptied, and opened where it was not.
int sites_pipe(void);

// Opens it, while no other thread closes numbers that are not its own: it gets low ones first.
void sites_open_pipe(void);

// Closes this thread's pipe; in a forked child, the copy of it.
void sites_close_pipe(void);

#endif
