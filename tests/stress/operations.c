// The operations. Each takes what it works on from the model, does one thing to it by a function of
// the program's (so through the library), and tells the model what came of it.
//
// What starts with sys_ is a system call that the library cannot see: the test's own looks, and, in
// the operations named so, a program that goes past libc.
#include "base/sys.h"
#include "judge.h"
#include "stress.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

int __close(int fd);
int __dup2(int fd, int to);
int __fcntl(int fd, int command, ...);

enum {
    OPEN_MAX_COUNT = 120, // more than that, and something is closed instead
    CONNECT_WAIT_US = 20000,
    LARGE_BYTES = 1 << 17,
};

// --- what an operation works on -----------------------------------------------------------------

struct use {
    struct actor *actor;
    int fd;
    uint64_t inode;
    bool early; // before a call has returned the number to the program
};

typedef bool wanted(const struct known *known);

static bool any(const struct known *known) {
    return known != NULL;
}
static bool is_stream(const struct known *known) {
    return known->type == SOCK_STREAM && !known->listening;
}
static bool is_listener(const struct known *known) {
    return known->listening;
}
static bool is_inet_stream(const struct known *known) {
    return is_stream(known) && known->domain != AF_UNIX;
}

static uint8_t tag_of(const struct actor *actor) {
    return (uint8_t)(actor->number + 1);
}

// Takes a socket for this thread alone. False where there is none.
static bool use_begin(struct use *use, struct actor *actor, wanted *want) {
    int first = (int)stress_below(actor, STRESS_RESERVED_FD);
    *use = (struct use){.actor = actor, .fd = -1};
    model_lock();
    for (int i = 0; i < STRESS_RESERVED_FD && use->fd < 0; i++) {
        int fd = (first + i) % STRESS_RESERVED_FD;
        struct known *known = model.fds[fd] ? model_find(model.fds[fd]) : NULL;
        if (known && !model.busy[fd] && want(known)) {
            model.busy[fd] = tag_of(actor);
            use->fd = fd;
            use->inode = known->inode;
            use->early = !model_is_given(fd);
        }
    }
    model_unlock();
    return use->fd >= 0;
}

static void unclear(struct known *known) {
    if (known)
        known->told_unclear = known->origin_unclear = true;
}

static unsigned thread_of(const struct actor *actor) {
    return actor->number % settings.threads + 1;
}

// Another thread is at work on it, by another of its numbers: which of the two was first, as the
// kernel saw it, nobody knows.
static bool is_shared_now(const struct known *known) {
    bool found = false;
    for (int fd = 0; fd < STRESS_RESERVED_FD && known->fds > 1 && !found; fd++)
        found = model.busy[fd] && model.fds[fd] == known->inode;
    return found;
}

// Returns the socket, with the model locked, or NULL: it is not at this number any more.
static struct known *use_end(struct use *use) {
    model_lock();
    if (model.busy[use->fd] == tag_of(use->actor))
        model.busy[use->fd] = 0;
    struct known *known = model_refresh(use->fd);
    // Between the library's notice of a close and the close itself, it knows of no socket there;
    // nor between the kernel's call and the library's notice of a birth or a dup.
    bool contested = use->early || model.aimed[use->fd] ||
                     model.disturbed[use->fd] > model.began[thread_of(use->actor)];
    if (known && known->inode == use->inode) {
        model_used(use->fd, known);
        if (contested)
            unclear(known);
        if (is_shared_now(known))
            known->told_unclear = true;
        return known;
    }
    unclear(known);
    unclear(model_find(use->inode));
    if (contested)
        model.disturbed[use->fd] = ++model.moment; // it may have closed what it did not own
    return NULL;
}

// Numbers that other threads may be using.
static void aim(unsigned first, unsigned last) {
    model_lock();
    model_aim((int)first, (int)last);
    model_unlock();
}

static void aimed(unsigned first, unsigned last) {
    model_lock();
    model_aimed((int)first, (int)last);
    model_unlock();
}

static void born(struct actor *actor, int fd, int site, enum ledger_provenance provenance) {
    if (fd < 0)
        return;
    if (fd >= STRESS_RESERVED_FD) {
        close(fd); // out of the way
        return;
    }
    model_dont_block(fd);
    model_lock();
    struct known *known = model_born(fd, (enum site_id)site, provenance, thread_of(actor));
    if (known && (sites[site].call == CALL_ACCEPT || sites[site].call == CALL_ACCEPT4 ||
                  sites[site].call == CALL_SOCKETPAIR))
        known->connected = true;
    model_unlock();
    if (!known && provenance == PROVENANCE_RECEIVED)
        sys_close(fd); // another kind of file
    stress_trace(actor, sites[site].name, fd, 0, fd);
}

static int site_in(struct actor *actor, int first, int end) {
    return first + (int)stress_below(actor, (unsigned)(end - first));
}

// --- births -------------------------------------------------------------------------------------

static int open_socket(struct actor *actor, int domain, int type) {
    int site = site_in(actor, SOCKET_SITES_FIRST, SOCKET_SITES_END);
    int flags = stress_below(actor, 2) ? SOCK_CLOEXEC : 0;
    int fd = ((socket_site *)sites[site].function)(domain, type | flags, 0);
    born(actor, fd, site, PROVENANCE_CREATED);
    return fd;
}

static int random_family(struct actor *actor) {
    static const int families[] = {AF_INET, AF_INET, AF_INET6, AF_UNIX};
    return families[stress_below(actor, 4)];
}

static void lone_socket(struct actor *actor) {
    static const int types[] = {SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM};
    open_socket(actor, random_family(actor), types[stress_below(actor, 3)]);
}

static void pair(struct actor *actor) {
    static const int types[] = {SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    int site = site_in(actor, PAIR_SITES_FIRST, PAIR_SITES_END), fds[2];
    if (((pair_site *)sites[site].function)(AF_UNIX, types[stress_below(actor, 5)], fds) == 0)
        for (int i = 0; i < 2; i++)
            born(actor, fds[i], site, PROVENANCE_CREATED);
}

static socklen_t address_of(const struct place *place, struct sockaddr_storage *out) {
    memset(out, 0, sizeof *out);
    out->ss_family = place->family;
    if (place->family == AF_UNIX) {
        memcpy(((struct sockaddr_un *)out)->sun_path, place->name, 6);
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 6);
    }
    if (place->family == AF_INET6) {
        ((struct sockaddr_in6 *)out)->sin6_addr = in6addr_loopback;
        ((struct sockaddr_in6 *)out)->sin6_port = place->port;
        return sizeof(struct sockaddr_in6);
    }
    ((struct sockaddr_in *)out)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ((struct sockaddr_in *)out)->sin_port = place->port;
    return sizeof(struct sockaddr_in);
}

static void remember_place(struct actor *actor, int fd) {
    struct sockaddr_storage address = {0};
    socklen_t bytes = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) != 0)
        return;
    struct place place = {.family = (uint8_t)address.ss_family};
    if (place.family == AF_UNIX)
        memcpy(place.name, ((struct sockaddr_un *)&address)->sun_path, 6);
    else // the same place in both structures
        place.port = ((struct sockaddr_in *)&address)->sin_port;
    model_lock();
    shared->places[stress_below(actor, PLACES_MAX / 4) + PLACES_MAX / 4 * (actor->process % 4)] =
        place;
    model_unlock();
}

static void open_listener(struct actor *actor) {
    int family = random_family(actor), fd = open_socket(actor, family, SOCK_STREAM);
    if (fd < 0 || fd >= STRESS_RESERVED_FD)
        return;
    struct place none = {.family = (uint8_t)family};
    struct sockaddr_storage address;
    socklen_t bytes = address_of(&none, &address);
    if (family == AF_UNIX)
        bytes = sizeof(sa_family_t); // autobind
    if (bind(fd, (struct sockaddr *)&address, bytes) != 0 || listen(fd, 64) != 0)
        return;
    remember_place(actor, fd);
    model_lock();
    struct known *known = model_refresh(fd);
    if (known && known->type == SOCK_STREAM && model_look(fd).listening)
        known->listening = true;
    model_unlock();
}

static void accept_one(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, is_listener))
        return;
    int site = site_in(actor, ACCEPT_SITES_FIRST, ACCEPT_SITES_END);
    born(actor, ((accept_site *)sites[site].function)(use.fd), site, PROVENANCE_CREATED);
    use_end(&use);
    model_unlock();
}

static void connected(struct use *use, int result, int error, bool to_nowhere) {
    struct known *known = use_end(use);
    if (known && (result == 0 || error == EINPROGRESS || error == EINTR)) {
        bool completes = result == 0 && known->connecting && !to_nowhere;
        if (!completes) { // a new connection: what the old one's end told is over
            known->end_sites = 0;
            known->end_of_stream = known->told_error = known->told_reset = known->shut_rd =
                known->shut_wr = known->sent_error = false;
        }
        known->connected = result == 0 && !to_nowhere;
        known->connecting = result != 0;
        known->is_parents = false;
    } else if (known) {
        known->connecting = known->connecting && error == EALREADY;
    }
    model_unlock();
}

static int connect_to(struct actor *actor, int fd, const struct place *place) {
    struct sockaddr_storage address;
    socklen_t bytes = address_of(place, &address);
    int result = stress_below(actor, 4) ? connect(fd, (struct sockaddr *)&address, bytes)
                                        : (int)syscall(SYS_connect, fd, &address, bytes);
    stress_trace(actor, "connect", fd, place->family, result == 0 ? 0 : -errno);
    return result;
}

static struct place random_place(struct actor *actor) {
    struct place place = {0};
    unsigned first = stress_below(actor, PLACES_MAX);
    model_lock();
    for (unsigned i = 0; i < PLACES_MAX && !place.family; i++)
        place = shared->places[(first + i) % PLACES_MAX];
    model_unlock();
    return place;
}

// Takes what this thread has just opened, unless another has taken it meanwhile.
static bool use_own(struct use *use, struct actor *actor, int fd) {
    model_lock();
    bool is_free = model.fds[fd] && !model.busy[fd];
    *use = (struct use){actor, fd, model.fds[fd], !model_is_given(fd)};
    if (is_free)
        model.busy[fd] = tag_of(actor);
    model_unlock();
    return is_free;
}

static void connect_new(struct actor *actor) {
    struct place place = random_place(actor);
    struct use use;
    int fd = place.family ? open_socket(actor, place.family, SOCK_STREAM) : -1;
    if (fd < 0 || fd >= STRESS_RESERVED_FD || !use_own(&use, actor, fd))
        return;
    bool waits = stress_below(actor, 2);
    if (waits) {
        struct timeval limit = {.tv_usec = CONNECT_WAIT_US};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        sys_call(SYS_fcntl, fd, F_SETFL, 0, 0, 0, 0);
    }
    int result = connect_to(actor, fd, &place), error = errno;
    if (waits)
        model_dont_block(fd);
    connected(&use, result, error, false);
}

static void connect_again(struct actor *actor) {
    struct place place = random_place(actor);
    struct use use;
    if (!place.family || !use_begin(&use, actor, is_inet_stream))
        return;
    bool disconnect = !stress_below(actor, 3);
    int result;
    if (disconnect) {
        struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
        result = connect(use.fd, &nowhere, sizeof nowhere);
        stress_trace(actor, "disconnect", use.fd, 0, result == 0 ? 0 : -errno);
    } else {
        result = connect_to(actor, use.fd, &place);
    }
    connected(&use, result, errno, disconnect);
}

// --- what happens to a connection ---------------------------------------------------------------

static void send_some(struct actor *actor) {
    static const char bytes[LARGE_BYTES];
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    size_t len = stress_below(actor, 16) ? 1 + stress_below(actor, 200) : LARGE_BYTES;
    ssize_t n = send(use.fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    int error = n < 0 ? errno : 0;
    stress_trace(actor, "send", use.fd, (long)len, n < 0 ? -error : n);
    struct known *known = use_end(&use);
    if (known && error && error != EAGAIN)
        known->sent_error = true;
    model_unlock();
}

// What a read of `len` bytes told.
static void told(struct use *use, int site, ssize_t n, int error, size_t len) {
    struct known *known = use_end(use);
    if (known && n == 0 && len > 0) {
        struct look look = model_look(use->fd);
        bool refused = !known->connected && !look.moved_data && look.domain != AF_UNIX;
        if ((!known->end_of_stream || !model.exact) && !refused &&
            judge_end_of_stream(known, &look)) {
            known->end_of_stream = true;
            known->end_sites |= 1ull << site;
            known->is_parents = false;
        }
    }
    if (known && n < 0 && known->type == SOCK_STREAM &&
        (error == ECONNRESET || error == EPIPE || error == ETIMEDOUT)) {
        known->told_error = true;
        known->told_reset = known->told_reset || error != ETIMEDOUT;
        known->is_parents = false;
    }
    model_unlock();
}

static void read_some(struct actor *actor) {
    char buffer[STRESS_BUFFER_BYTES];
    struct use use;
    if (!use_begin(&use, actor, is_stream))
        return;
    int site = site_in(actor, MESSAGE_SITES_FIRST, READ_SITES_END);
    size_t len = stress_below(actor, 8) ? 1 + stress_below(actor, sizeof buffer - 1) : 0;
    ssize_t n;
    if (site < MESSAGE_SITES_END) {
        struct iovec part = {buffer, len};
        struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
        n = ((message_site *)sites[site].function)(use.fd, &message);
    } else {
        n = ((read_site *)sites[site].function)(use.fd, buffer, len);
    }
    int error = errno;
    stress_trace(actor, sites[site].name, use.fd, (long)len, n < 0 ? -error : n);
    told(&use, site, n, error, len);
}

static void shut_down(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, stress_below(actor, 8) ? is_stream : any))
        return;
    int how = (int)stress_below(actor, 3);
    int result =
        stress_below(actor, 4) ? shutdown(use.fd, how) : (int)syscall(SYS_shutdown, use.fd, how);
    stress_trace(actor, "shutdown", use.fd, how, result == 0 ? 0 : -errno);
    struct known *known = use_end(&use);
    if (known && result == 0) {
        known->shut_rd = known->shut_rd || how != SHUT_WR;
        known->shut_wr = known->shut_wr || how != SHUT_RD;
        known->is_parents = false;
        if (known->listening)
            known->listening = model_look(use.fd).listening;
    }
    model_unlock();
}

// --- deaths -------------------------------------------------------------------------------------

static void close_quietly(struct actor *actor, int fd) {
    static const char *const names[] = {
        "close", "__close", "close by number", "close_range", "close_range by number", "fclose"};
    unsigned way = stress_below(actor, actor->bare ? 5 : 6);
    FILE *stream;
    switch (way) {
    case 0:
        close(fd);
        break;
    case 1:
        __close(fd);
        break;
    case 2:
        syscall(SYS_close, fd);
        break;
    case 3:
        close_range((unsigned)fd, (unsigned)fd, 0);
        break;
    case 4:
        syscall(SYS_close_range, fd, fd, 0);
        break;
    case 5:
        stream = fdopen(fd, "r+");
        if (stream)
            fclose(stream);
        break;
    }
    stress_trace(actor, names[way], fd, 0, 0);
}

static void close_one(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    close_quietly(actor, use.fd);
    use_end(&use);
    model_unlock();
}

// RST to the peer: SO_LINGER of 0 seconds, socket(7).
static void reset_one(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, is_inet_stream))
        return;
    struct linger at_once = {.l_onoff = 1};
    setsockopt(use.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (stress_below(actor, 4))
        close_quietly(actor, use.fd);
    use_end(&use);
    model_unlock();
}

static void close_some(struct actor *actor) {
    unsigned first = 3 + stress_below(actor, STRESS_RESERVED_FD / 4);
    unsigned last = first + stress_below(actor, 12);
    aim(first, last);
    if (stress_below(actor, 2))
        close_range(first, last, 0);
    else
        syscall(SYS_close_range, first, last, 0);
    stress_trace(actor, "close_range", first, last, 0);
    aimed(first, last);
}

// Of a number that another thread may be using: what a double close does.
static void close_stray(struct actor *actor) {
    unsigned fd = 3 + stress_below(actor, STRESS_RESERVED_FD / 8);
    aim(fd, fd);
    close((int)fd);
    stress_trace(actor, "stray close", fd, 0, 0);
    aimed(fd, fd);
}

// --- dups ---------------------------------------------------------------------------------------

// The copy of `use` is at `copy` now, unless another thread was in between. `own_aims`: how often
// this thread has aimed at it.
static void copied_over(struct actor *actor, struct use *use, const char *name, int copy,
                        unsigned own_aims) {
    stress_trace(actor, name, use->fd, copy, copy < 0 ? -errno : copy);
    if (copy >= STRESS_RESERVED_FD) {
        close(copy);
        copy = -1;
    }
    struct known *known = use_end(use);
    struct known *there = copy >= 0 ? model_give(copy, thread_of(actor), own_aims) : NULL;
    if (copy >= 0 && copy != use->fd)
        model.unseen[copy] = known && model.unseen[use->fd];
    if (there != known) {
        unclear(there);
        unclear(known);
    }
    if (known && model.unseen[use->fd])
        unclear(known);
    model_unlock();
}

static void copied(struct actor *actor, struct use *use, const char *name, int copy) {
    copied_over(actor, use, name, copy, 0);
}

static void dup_one(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    int from = 3 + (int)stress_below(actor, STRESS_RESERVED_FD / 2);
    switch (stress_below(actor, 7)) {
    case 0:
        copied(actor, &use, "dup", dup(use.fd));
        break;
    case 1:
        copied(actor, &use, "dup by number", (int)syscall(SYS_dup, use.fd));
        break;
    case 2:
        copied(actor, &use, "F_DUPFD", fcntl(use.fd, F_DUPFD, from));
        break;
    case 3:
        copied(actor, &use, "F_DUPFD_CLOEXEC", fcntl(use.fd, F_DUPFD_CLOEXEC, from));
        break;
    case 4:
        copied(actor, &use, "__fcntl", __fcntl(use.fd, F_DUPFD, from));
        break;
    case 5:
        copied(actor, &use, "fcntl64", fcntl64(use.fd, F_DUPFD_CLOEXEC, from));
        break;
    case 6:
        copied(actor, &use, "F_DUPFD by number", (int)syscall(SYS_fcntl, use.fd, F_DUPFD, from));
        break;
    }
}

static void dup_over(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    int to = 3 + (int)stress_below(actor, STRESS_RESERVED_FD / 4);
    aim((unsigned)to, (unsigned)to);
    switch (stress_below(actor, 5)) {
    case 0:
        copied_over(actor, &use, "dup2", dup2(use.fd, to), 1);
        break;
    case 1:
        copied_over(actor, &use, "__dup2", __dup2(use.fd, to), 1);
        break;
    case 2:
        copied_over(actor, &use, "dup3", dup3(use.fd, to, O_CLOEXEC), 1);
        break;
#ifdef SYS_dup2
    case 3:
        copied_over(actor, &use, "dup2 by number", (int)syscall(SYS_dup2, use.fd, to), 1);
        break;
#endif
    default:
        copied_over(actor, &use, "dup3 by number", (int)syscall(SYS_dup3, use.fd, to, 0), 1);
        break;
    }
    aimed((unsigned)to, (unsigned)to);
}

// The end of a socket that the JDK closes: a marker is put over it.
static void cover_one(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    dup2(0, use.fd); // /dev/null
    stress_trace(actor, "cover", use.fd, 0, 0);
    use_end(&use);
    sys_close(use.fd);
    model_refresh(use.fd);
    model_unlock();
}

// --- passes -------------------------------------------------------------------------------------

static void pass(struct actor *actor) {
    struct use use;
    unsigned to = stress_below(actor, settings.processes);
    // To itself seldom: of a socket with two births little can be said.
    bool wanted_here = to != actor->process || stress_below(actor, 8) == 0;
    if (!wanted_here || !use_begin(&use, actor, any))
        return;
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {&use, stress_below(actor, 4) ? 1 : 0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(2 * sizeof(int));
    for (size_t i = 0; i < 2; i++) // twice the same one: two descriptors for who receives it
        memcpy(CMSG_DATA(header) + i * sizeof(int), &use.fd, sizeof(int));
    if (stress_below(actor, 2)) {
        header->cmsg_len = CMSG_LEN(sizeof(int));
        message.msg_controllen = CMSG_SPACE(sizeof(int));
    }
    ssize_t n = sendmsg(shared->channel_out[to], &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    stress_trace(actor, "pass", use.fd, to, n < 0 ? -errno : n);
    use_end(&use);
    model_unlock();
}

static void receive(struct actor *actor) {
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    char byte;
    struct iovec part = {&byte, 1};
    // Room for one descriptor only: the kernel drops the other, MSG_CTRUNC.
    size_t room = stress_below(actor, 4) ? sizeof control : CMSG_SPACE(sizeof(int)) - 4;
    struct mmsghdr message = {
        .msg_hdr = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = room}};
    int site = site_in(actor, MESSAGE_SITES_FIRST, MESSAGE_SITES_END);
    ssize_t n =
        ((message_site *)sites[site].function)(shared->channel_in[actor->process], &message);
    if (n < 0)
        return;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message.msg_hdr);
    if (!header || header->cmsg_type != SCM_RIGHTS)
        return;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        born(actor, fd, site, PROVENANCE_RECEIVED);
    }
}

static void fetch(struct actor *actor) {
    unsigned from = stress_below(actor, settings.processes);
    if (from == actor->process && stress_below(actor, 8))
        return;
    int pidfd = (int)sys_call(SYS_pidfd_open, (long)shared->pids[from], 0, 0, 0, 0, 0);
    if (pidfd < 0)
        return;
    int high = (int)sys_call(SYS_fcntl, pidfd, F_DUPFD_CLOEXEC, STRESS_RESERVED_FD, 0, 0, 0);
    sys_close(pidfd);
    int site = site_in(actor, FETCH_SITES_FIRST, FETCH_SITES_END);
    int target = 3 + (int)stress_below(actor, 60);
    born(actor, ((fetch_site *)sites[site].function)(high, target), site, PROVENANCE_RECEIVED);
    sys_close(high);
}

// --- past libc: the library cannot see these ----------------------------------------------------

static void unseen_birth(struct actor *actor) {
    model_lock(); // nobody else may claim it first
    int fd =
        (int)sys_call(SYS_socket, random_family(actor), SOCK_STREAM | SOCK_NONBLOCK, 0, 0, 0, 0);
    model_born_unseen(fd);
    model_unlock();
    stress_trace(actor, "unseen socket", fd, 0, fd);
}

static void unseen_dup(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    int to = 3 + (int)stress_below(actor, STRESS_RESERVED_FD / 4);
    int copy = (int)(stress_below(actor, 2) ? sys_call(SYS_dup, use.fd, 0, 0, 0, 0, 0)
                                            : sys_call(SYS_dup3, use.fd, to, 0, 0, 0, 0));
    stress_trace(actor, "unseen dup", use.fd, copy, copy);
    struct known *known = use_end(&use);
    model_unseen(copy);
    struct known *there = copy >= 0 ? model_find(model.fds[copy]) : NULL;
    unclear(known);
    unclear(there);
    model_unlock();
}

static void unseen_close(struct actor *actor) {
    struct use use;
    if (!use_begin(&use, actor, any))
        return;
    sys_close(use.fd);
    stress_trace(actor, "unseen close", use.fd, 0, 0);
    use_end(&use);
    model_unseen(use.fd);
    model_unlock();
}

// --- all together -------------------------------------------------------------------------------

static const struct {
    void (*run)(struct actor *);
    unsigned weight;
    bool opens, is_child;
} table[] = {
    {lone_socket, 40, true, false},
    {pair, 60, true, false},
    {open_listener, 40, true, false},
    {accept_one, 220, true, false},
    {connect_new, 160, true, false},
    {connect_again, 15, false, false},
    {send_some, 90, false, false},
    {read_some, 260, false, false},
    {shut_down, 80, false, false},
    {close_one, 220, false, false},
    {reset_one, 40, false, false},
    {close_some, 10, false, false},
    {close_stray, 10, false, false},
    {dup_one, 60, true, false},
    {dup_over, 40, false, false},
    {cover_one, 10, false, false},
    {pass, 50, false, false},
    {receive, 60, true, false},
    {fetch, 15, true, false},
    {unseen_birth, 8, true, false},
    {unseen_dup, 3, true, false},
    {unseen_close, 8, false, false},
    {children_fork, 4, false, true},
    {children_vfork, 1, false, true},
    {children_spawn, 1, false, true},
    {children_exec, 1, false, true},
    {children_clone_vm, 1, false, true},
};

enum {
    COUNT = sizeof table / sizeof *table,
    CHILD_SHARE = 40, // of the operations that make a child, one in so many is run: each costs 1 ms
};

static unsigned open_count(void) {
    unsigned count = 0;
    model_lock();
    for (int fd = 0; fd < STRESS_RESERVED_FD; fd++)
        count += model.fds[fd] != 0;
    model_unlock();
    return count;
}

static void run_random(struct actor *actor) {
    unsigned total = 0;
    for (int i = 0; i < COUNT; i++)
        total += table[i].weight;
    unsigned at = stress_below(actor, total);
    int i = 0;
    for (; at >= table[i].weight; i++)
        at -= table[i].weight;
    bool rare = stress_below(actor, CHILD_SHARE) == 0;
    bool is_unseen =
        table[i].run == unseen_birth || table[i].run == unseen_dup || table[i].run == unseen_close;
    if (settings.seen && is_unseen)
        close_one(actor);
    else if (table[i].is_child && (!rare || actor->depth || settings.no_children))
        close_one(actor);
    else if (table[i].opens && open_count() > OPEN_MAX_COUNT)
        close_one(actor);
    else
        table[i].run(actor);
}

static void mark(const struct actor *actor, bool begins) {
    model_lock();
    model_operation(thread_of(actor), begins);
    model_unlock();
}

void operation_run(struct actor *actor) {
    __atomic_fetch_add(&shared->operations, 1, __ATOMIC_RELAXED);
    mark(actor, true);
    run_random(actor);
    mark(actor, false);
}
