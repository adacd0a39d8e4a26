// Births: socket, socketpair, accept, accept4; and connect, which tells the peer.
#include "hooks/real.h"
#include "report/exhaustion.h"
#include "track/tracker.h"
#include <errno.h>

EXPORT HOT int socket(int domain, int type, int protocol) {
    int fd = real_socket(domain, type, protocol);
    exhaustion_after(fd, NULL, 0);
    if (fd >= 0)
        tracker_born(fd, &(struct tracker_birth){.call = CALL_SOCKET,
                                                 .family = domain,
                                                 .type = type,
                                                 .protocol = protocol,
                                                 .caller = CALLER});
    return fd;
}

EXPORT int socketpair(int domain, int type, int protocol, int fds[2]) {
    int result = real_socketpair(domain, type, protocol, fds);
    exhaustion_after(result, NULL, 0);
    if (result == 0) {
        struct tracker_birth birth = {.call = CALL_SOCKETPAIR,
                                      .family = domain,
                                      .type = type,
                                      .protocol = protocol,
                                      .caller = CALLER};
        tracker_born(fds[0], &birth);
        tracker_born(fds[1], &birth);
    }
    return result;
}

// What the program's address holds is not looked at: its length is valid only if the call succeeds,
// and tells only then how long the address is, not how much room there was. A report asks the
// kernel.
static HOT int accepted(int listener, int fd, enum ledger_call call, const void *caller) {
    exhaustion_after(fd, NULL, 0);
    if (fd >= 0)
        tracker_accepted(listener, fd, call, caller);
    return fd;
}

EXPORT HOT int accept(int fd, struct sockaddr *address, socklen_t *bytes) {
    tracker_before_accept();
    return accepted(fd, real_accept(fd, address, bytes), CALL_ACCEPT, CALLER);
}

EXPORT HOT int accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags) {
    tracker_before_accept();
    return accepted(fd, real_accept4(fd, address, bytes, flags), CALL_ACCEPT4, CALLER);
}

static HOT int connected(int fd, int result, const struct sockaddr *address, socklen_t bytes,
                         const void *caller) {
    tracker_connected(fd, address, bytes, LIKELY(result == 0) ? 0 : errno, caller);
    exhaustion_after(result, address, bytes);
    return result;
}

EXPORT HOT int connect(int fd, const struct sockaddr *address, socklen_t bytes) {
    return connected(fd, real_connect(fd, address, bytes), address, bytes, CALLER);
}

int __connect(int fd, const struct sockaddr *address, socklen_t bytes);
EXPORT int __connect(int fd, const struct sockaddr *address, socklen_t bytes) {
    return connected(fd, real___connect(fd, address, bytes), address, bytes, CALLER);
}
