#include "model.h"
#include "base/sys.h"
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

struct model model;

// --- the lock -----------------------------------------------------------------------------------
// Not pthread's: a child of _Fork or of a raw clone goes on with it.

static int locked;

void model_lock(void) {
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
        sys_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

void model_unlock(void) {
    __atomic_store_n(&locked, 0, __ATOMIC_RELEASE);
}

// --- sockets ------------------------------------------------------------------------------------

uint64_t model_inode(int fd) {
    struct stat status;
    return sys_fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

static struct known *slot(uint64_t inode) {
    uint64_t at = inode * 0x9e3779b97f4a7c15u >> 32;
    for (;; at++) {
        struct known *known = &model.sockets[at % MODEL_SOCKETS];
        if (known->inode == inode || known->inode == 0)
            return known;
    }
}

struct known *model_find(uint64_t inode) {
    struct known *known = inode ? slot(inode) : NULL;
    return known && known->inode ? known : NULL;
}

static int option(int fd, int name) {
    int value = 0;
    unsigned bytes = sizeof value;
    return sys_getsockopt(fd, SOL_SOCKET, name, &value, &bytes) < 0 ? 0 : value;
}

static struct known *add(uint64_t inode, int fd) {
    struct known *known = slot(inode);
    model.added++;
    *known = (struct known){.inode = inode,
                            .domain = (uint8_t)option(fd, SO_DOMAIN),
                            .type = (uint8_t)option(fd, SO_TYPE),
                            .listening = option(fd, SO_ACCEPTCONN) != 0};
    return known;
}

// Removes entries, which open addressing cannot do one by one: those that stay are entered again.
static void purge(void) {
    static struct known kept[MODEL_FDS];
    unsigned count = 0;
    for (int i = 0; i < MODEL_SOCKETS; i++)
        if (model.sockets[i].inode && model.sockets[i].fds)
            kept[count++] = model.sockets[i];
    memset(model.sockets, 0, sizeof model.sockets);
    for (unsigned i = 0; i < count; i++)
        *slot(kept[i].inode) = kept[i];
    model.added = 0;
}

bool model_tidy(void) {
    if (model.added < MODEL_SOCKETS / 2)
        return true;
    if (model.exact)
        purge();
    return model.exact;
}

// A socket whose last fd here is gone is forgotten: it may come back by a message, as a new one.
// Where threads run side by side an fd may only not have been looked at yet, so there it is kept.
static void release(uint64_t inode) {
    struct known *known = model_find(inode);
    if (!known || known->fds == 0 || --known->fds > 0 || !model.exact)
        return;
    *known = (struct known){.inode = inode}; // keeps its place until purge()
}

struct known *model_refresh(int fd) {
    if (fd < 0 || fd >= MODEL_FDS)
        return NULL;
    uint64_t inode = model_inode(fd), was = model.fds[fd];
    if (inode != was) {
        model.fds[fd] = inode;
        model.changed[fd] = ++model.moment;
        model.unseen_inode[fd] = 0;
        struct former *former = model.former[fd];
        memmove(former + 1, former, (MODEL_FORMER - 1) * sizeof *former);
        former[0] = (struct former){inode, model.moment};
        if (was)
            release(was);
        if (inode) {
            struct known *known = model_find(inode);
            if (!known || (known->fds == 0 && known->type == 0))
                known = add(inode, fd);
            known->fds++;
        }
    }
    return model_find(inode);
}

static void add_origin(struct known *known, enum site_id site, enum ledger_provenance provenance) {
    for (int i = 0; i < known->origin_count; i++)
        if (known->origins[i].site == site && known->origins[i].provenance == provenance)
            return;
    if (known->origin_count < MODEL_ORIGINS)
        known->origins[known->origin_count++] = (struct origin){(uint8_t)site, (uint8_t)provenance};
    else
        known->origin_unclear = true;
    // Of two records of one socket, the one that was told may be the one that goes first.
    if (known->origin_count > 1)
        known->told_unclear = true;
}

bool model_is_given(int fd) {
    return model.given[fd] == model.fds[fd];
}

static bool is_disturbed(int fd, unsigned thread, unsigned own_aims) {
    return model.aimed[fd] != own_aims || model.disturbed[fd] > model.began[thread];
}

struct known *model_give(int fd, unsigned thread, unsigned own_aims) {
    struct known *known = model_refresh(fd);
    if (!is_disturbed(fd, thread, own_aims))
        model.given[fd] = model.fds[fd];
    return known;
}

// To what was at fd since then, and is not any more.
static void add_origin_of_former(int fd, enum site_id site, enum ledger_provenance provenance,
                                 uint64_t since) {
    for (int i = 0; i < MODEL_FORMER && model.former[fd][i].moment > since; i++) {
        struct known *known = model_find(model.former[fd][i].inode);
        if (known && known->inode != model.fds[fd])
            add_origin(known, site, provenance);
    }
}

struct known *model_born(int fd, enum site_id site, enum ledger_provenance provenance,
                         unsigned thread) {
    if (fd < 0 || fd >= MODEL_FDS)
        return NULL;
    struct known *before = model_find(model_inode(fd));
    bool was_here = before && (before->fds || before->type);
    struct known *known = model_give(fd, thread, 0);
    // Not where it is late, and finds what another thread has opened unseen since.
    if (!known || known->inode != model.unseen_inode[fd])
        model.unseen[fd] = false;
    if (is_disturbed(fd, thread, 0))
        add_origin_of_former(fd, site, provenance, model.began[thread]);
    if (!known)
        return NULL;
    if (was_here)
        known->told_unclear = true;
    add_origin(known, site, provenance);
    return known;
}

void model_unseen(int fd) {
    if (fd < 0 || fd >= MODEL_FDS)
        return;
    if (!model.unseen[fd])
        model.stale[fd] = model.fds[fd];
    model_refresh(fd);
    model.unseen[fd] = true;
    model.unseen_inode[fd] = model.given[fd] = model.fds[fd];
    model.unseen_count++;
}

void model_born_unseen(int fd) {
    model_unseen(fd);
    struct known *known = fd >= 0 && fd < MODEL_FDS ? model_find(model.fds[fd]) : NULL;
    if (known)
        add_origin(known, SITE_NONE, PROVENANCE_FOUND);
}

void model_operation(unsigned thread, bool begins) {
    model.began[thread] = begins ? ++model.moment : 0;
}

void model_aim(int first, int last) {
    for (int fd = first; fd <= last; fd++)
        model.aimed[fd]++;
}

void model_aimed(int first, int last) {
    for (int fd = first; fd <= last; fd++) {
        model.aimed[fd]--;
        model_refresh(fd);
        model.disturbed[fd] = model.changed[fd] = ++model.moment;
    }
}

void model_used(int fd, struct known *known) {
    if (!model.unseen[fd])
        return;
    known->told_unclear = known->origin_unclear = true;
    struct known *stale = model_find(model.stale[fd]);
    if (stale) // its record may have been told instead
        stale->told_unclear = stale->origin_unclear = true;
}

void model_reported(void) {
    purge();
    memset(model.unseen, 0, sizeof model.unseen);
    for (int i = 0; i < MODEL_SOCKETS; i++) {
        struct known *known = &model.sockets[i];
        if (known->inode && known->origin_count == 0 && !known->origin_unclear)
            add_origin(known, SITE_NONE, PROVENANCE_FOUND);
    }
}

void model_dont_block(int fd) {
    long flags = sys_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);
    sys_call(SYS_fcntl, fd, F_SETFL, flags | O_NONBLOCK, 0, 0, 0);
}

// What other threads were in the middle of is copied as it was, here and in the library.
static void take_over_unfinished(void) {
    uint64_t oldest = UINT64_MAX;
    for (int i = 0; i < MODEL_THREADS; i++)
        if (model.began[i] && model.began[i] < oldest)
            oldest = model.began[i];
    for (int fd = 0; fd < MODEL_FDS; fd++) {
        uint64_t was = model.fds[fd];
        bool unfinished = model.busy[fd] || model.aimed[fd] || model.changed[fd] > oldest;
        struct known *known = unfinished ? model_find(was) : NULL;
        if (known)
            known->told_unclear = known->origin_unclear = true;
        known = model_refresh(fd);
        if (known) // opened, and not yet made so
            model_dont_block(fd);
        if (known && (unfinished || known->inode != was))
            known->told_unclear = known->origin_unclear = true;
        if (unfinished || model.fds[fd] != was)
            model.unseen[fd] = true;
        model.busy[fd] = 0;
        model.given[fd] = model.fds[fd];
    }
    model.parent_moves = true;
}

uint64_t model_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void model_forked(void) {
    model.begun_ns = model_now_ns();
    model.unseen_count = 0;
    for (int fd = 0; fd < MODEL_FDS; fd++)
        model.unseen_count += model.unseen[fd];
    for (int i = 0; i < MODEL_SOCKETS; i++)
        model.sockets[i].is_parents = true;
    if (!model.exact)
        take_over_unfinished();
    memset(model.busy, 0, sizeof model.busy);
    memset(model.aimed, 0, sizeof model.aimed);
    memset(model.began, 0, sizeof model.began);
    model.exact = true;
    model_unlock();
}

// --- the kernel's word --------------------------------------------------------------------------

static void look_at_tcp(struct look *look, int fd) {
    struct tcp_info info;
    memset(&info, 0, sizeof info);
    unsigned bytes = sizeof info;
    if (sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) < 0)
        return;
    look->state = info.tcpi_state;
    look->moved_data = info.tcpi_bytes_acked || info.tcpi_bytes_received || info.tcpi_rtt;
    for (int peer = 0; peer < 2; peer++) {
        struct sockaddr_in6 address = {0}; // the port is at the same place in a sockaddr_in
        unsigned room = sizeof address;
        sys_call(peer ? SYS_getpeername : SYS_getsockname, fd, (long)&address, (long)&room, 0, 0,
                 0);
        look->ports = look->ports << 16 | address.sin6_port;
    }
}

struct look model_look(int fd) {
    struct look look = {.domain = option(fd, SO_DOMAIN),
                        .type = option(fd, SO_TYPE),
                        .listening = option(fd, SO_ACCEPTCONN) != 0};
    if (look.type != SOCK_STREAM)
        return look;
    if (look.domain == AF_INET || look.domain == AF_INET6)
        look_at_tcp(&look, fd);
    struct pollfd poll = {.fd = fd, .events = POLLRDHUP};
    struct timespec at_once = {0};
    sys_call(SYS_ppoll, (long)&poll, 1, (long)&at_once, 0, 0, 0);
    look.hangup = poll.revents & (POLLRDHUP | POLLHUP | POLLERR);
    if (!look.listening) {
        sys_call(SYS_ioctl, fd, SIOCINQ, (long)&look.in, 0, 0, 0);
        sys_call(SYS_ioctl, fd, SIOCOUTQ, (long)&look.out, 0, 0, 0);
    }
    return look;
}

bool look_is_same(const struct look *a, const struct look *b) {
    return a->state == b->state && a->in == b->in && a->out == b->out && a->hangup == b->hangup &&
           a->listening == b->listening && a->moved_data == b->moved_data && a->ports == b->ports;
}
