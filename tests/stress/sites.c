#include "sites.h"
#include "base/sys.h"
#include "ledger_view.h"
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t __read(int fd, void *buffer, size_t len);
ssize_t __recv(int fd, void *buffer, size_t len, int flags);
ssize_t __read_chk(int fd, void *buffer, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *buffer, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buffer, size_t len, size_t room, int flags,
                       struct sockaddr *from, socklen_t *bytes);
int pidfd_getfd(int pidfd, int target, unsigned flags); // <sys/pidfd.h>, glibc 2.36

// recvmmsg returns the number of messages: what read would say of the one.
static inline __attribute__((always_inline)) ssize_t one_of(const struct mmsghdr *message,
                                                            long count) {
    return count == 1 ? (ssize_t)message->msg_len : (ssize_t)-1;
}

#define SOCKET_SITE(name, call, expression)                                                        \
    SITE_RANGE(name);                                                                              \
    static SITE(name) int name(int domain, int type, int protocol) {                               \
        int fd = expression;                                                                       \
        USE(fd);                                                                                   \
        return fd;                                                                                 \
    }
#define PAIR_SITE(name, call, expression)                                                          \
    SITE_RANGE(name);                                                                              \
    static SITE(name) int name(int domain, int type, int fds[2]) {                                 \
        int result = expression;                                                                   \
        USE(result);                                                                               \
        return result;                                                                             \
    }
#define ACCEPT_SITE(name, call, expression)                                                        \
    SITE_RANGE(name);                                                                              \
    static SITE(name) int name(int listener) {                                                     \
        int fd = expression;                                                                       \
        USE(fd);                                                                                   \
        return fd;                                                                                 \
    }
#define FETCH_SITE(name, call, expression)                                                         \
    SITE_RANGE(name);                                                                              \
    static SITE(name) int name(int pidfd, int fd) {                                                \
        int copy = expression;                                                                     \
        USE(copy);                                                                                 \
        return copy;                                                                               \
    }
#define MESSAGE_SITE(name, call, expression)                                                       \
    SITE_RANGE(name);                                                                              \
    static SITE(name) ssize_t name(int fd, struct mmsghdr *m) {                                    \
        ssize_t n = expression;                                                                    \
        USE(n);                                                                                    \
        return n;                                                                                  \
    }
#define READ_SITE(name, call, expression)                                                          \
    SITE_RANGE(name);                                                                              \
    static SITE(name) ssize_t name(int fd, void *buffer, size_t len) {                             \
        (void)buffer; /* splice needs none */                                                      \
        ssize_t n = expression;                                                                    \
        USE(n);                                                                                    \
        return n;                                                                                  \
    }
#include "sites.def"
#undef SOCKET_SITE
#undef PAIR_SITE
#undef ACCEPT_SITE
#undef FETCH_SITE
#undef MESSAGE_SITE
#undef READ_SITE

#define ROW(name, call)                                                                            \
    [SITE_##name] = {#name, call, (uintptr_t)__start_site_##name, (uintptr_t)__stop_site_##name,   \
                     (void (*)(void))(name)},
#define SOCKET_SITE(name, call, expression) ROW(name, call)
#define PAIR_SITE(name, call, expression) ROW(name, call)
#define ACCEPT_SITE(name, call, expression) ROW(name, call)
#define FETCH_SITE(name, call, expression) ROW(name, call)
#define MESSAGE_SITE(name, call, expression) ROW(name, call)
#define READ_SITE(name, call, expression) ROW(name, call)

const struct site sites[SITE_COUNT] = {
    [SITE_NONE] = {"nowhere", CALL_UNKNOWN, 0, 0, NULL},
#include "sites.def"
};

static enum site_id site_of(uintptr_t return_address) {
    for (int i = SITE_NONE + 1; i < SITE_COUNT; i++)
        if (return_address > sites[i].start && return_address <= sites[i].end)
            return (enum site_id)i;
    return SITE_NONE;
}

// A sanitizer's runtime comes before the library, and its interceptor is the caller then.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum {
    FRAMES = 3
};
#else
enum {
    FRAMES = 1
};
#endif

enum site_id site_of_stack(uint32_t stack) {
    enum site_id site = SITE_NONE;
    for (unsigned i = 0; i < FRAMES && site == SITE_NONE; i++)
        site = site_of(view_frame(stack, i));
    return site;
}

static __thread int ends[2] = {-1, -1}; // pipe(2)'s: 0 is for reading

void sites_open_pipe(void) {
    int low[2];
    if (sys_call(SYS_pipe2, (long)low, O_NONBLOCK | O_CLOEXEC, 0, 0, 0, 0) < 0)
        return;
    for (int i = 0; i < 2; i++) {
        ends[i] = (int)sys_call(SYS_fcntl, low[i], F_DUPFD_CLOEXEC, STRESS_RESERVED_FD, 0, 0, 0);
        sys_close(low[i]);
    }
}

int sites_pipe(void) {
    char drained[STRESS_BUFFER_BYTES];
    if (ends[1] < 0)
        sites_open_pipe();
    while (sys_read(ends[0], drained, sizeof drained) > 0)
        ;
    return ends[1];
}

void sites_close_pipe(void) {
    for (int i = 0; i < 2; i++) {
        if (ends[i] >= 0)
            sys_close(ends[i]);
        ends[i] = -1;
    }
}
