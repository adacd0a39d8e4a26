#include "report/snapshot.h"
#include "base/clock.h"
#include "base/format.h"
#include "base/process.h"
#include "base/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

enum {
    DIRENTS_BYTES = 32768,
    FD_MAX = 1 << 20
};

struct linux_dirent64 { // getdents64(2)
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

// --- which fds are sockets ----------------------------------------------------------------------

static uint64_t socket_inode(int fd) {
    struct stat status;
    return sys_fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

static bool note_fd(struct snapshot *out, struct scratch *scratch, int fd) {
    uint64_t inode = socket_inode(fd);
    if (inode == 0)
        return true;
    // The list grows in place: nothing else is taken from the scratch while it does.
    struct snapshot_fd *entry = scratch_take(scratch, sizeof *entry);
    if (!entry) {
        out->incomplete = true;
        return false;
    }
    if (out->fd_count == 0)
        out->fds = entry;
    out->fds[out->fd_count++] = (struct snapshot_fd){.inode = inode, .fd = fd};
    return true;
}
_Static_assert(sizeof(struct snapshot_fd) == 16, "scratch hands out multiples of 16 bytes");

typedef bool each_fd_function(void *context, int fd);

// Calls `each` for every number in a directory such as /proc/self/fd, but the one it has open
// itself.
static int each_fd_in(const char *directory, char *buffer, each_fd_function *each, void *context) {
    int dir = sys_openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return dir;
    long len;
    bool more = true;
    while (more &&
           (len = sys_call(SYS_getdents64, dir, (long)buffer, DIRENTS_BYTES, 0, 0, 0)) > 0) {
        for (long at = 0; more && at < len;) {
            const struct linux_dirent64 *entry = (const void *)(buffer + at);
            uint64_t fd;
            if (text_parse(entry->d_name, entry->d_name + strlen(entry->d_name), INT32_MAX, &fd) &&
                (int)fd != dir)
                more = each(context, (int)fd);
            at += entry->d_reclen;
        }
    }
    sys_close(dir);
    return 0;
}

struct noting {
    struct snapshot *out;
    struct scratch *scratch;
};

static bool note_each(void *context, int fd) {
    struct noting *noting = context;
    return note_fd(noting->out, noting->scratch, fd);
}

// Without /proc, or with no descriptor left to open it: every number that may be an fd is asked.
static void try_all_fds(struct noting *noting) {
    struct rlimit limit = {.rlim_cur = FD_MAX};
    sys_call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0);
    int last = limit.rlim_cur < FD_MAX ? (int)limit.rlim_cur : FD_MAX;
    if (last < ledger_fd_limit())
        last = ledger_fd_limit();
    for (int fd = 0; fd < last; fd++)
        if (!note_each(noting, fd))
            return;
}

// --- which record explains them -----------------------------------------------------------------

struct inode_index {
    uint32_t *slots; // record numbers, by inode
    uint32_t mask;
};

static uint32_t *index_slot(const struct inode_index *index, uint64_t inode) {
    uint64_t hash = inode * 0x9e3779b97f4a7c15u;
    for (uint32_t i = (uint32_t)(hash >> 32);; i++) {
        uint32_t *slot = &index->slots[i & index->mask];
        if (*slot == 0 || ledger_record(*slot)->inode == inode)
            return slot;
    }
}

static bool index_open(struct inode_index *index, struct scratch *scratch, uint32_t count) {
    uint32_t size = 16;
    while (size < count * 2)
        size *= 2;
    index->slots = scratch_take(scratch, (size_t)size * sizeof *index->slots);
    index->mask = size - 1;
    return index->slots != NULL;
}

// Takes a record off the table whose fd has become another file, behind our back.
static void drop_stale(int fd) {
    uint32_t was;
    if (ledger_fd_swap(fd, 0, &was) == 0 && was)
        ledger_release_vanished(was);
}

static uint32_t make_found_record(const struct snapshot_fd *entry) {
    uint32_t number = ledger_record_new();
    if (number == 0)
        return 0;
    struct ledger_record *record = ledger_record(number);
    record->inode = entry->inode;
    record->birth_ns = 0; // not known, and not invented
    record->provenance = PROVENANCE_FOUND;
    ledger_count(&ledger.header->counters.found);
    if (ledger_hold(number) && !ledger_fd_restore(entry->fd, number))
        ledger_release(number);
    return number;
}

// The record of a socket, held: the one in the fd table, or the one that another fd of the same
// socket has, or a new one.
static uint32_t record_for(const struct snapshot_fd *entry, const struct inode_index *index) {
    uint32_t number = ledger_fd_hold(entry->fd);
    if (number && ledger_record(number)->inode == entry->inode)
        return number;
    if (number) {
        ledger_release(number);
        drop_stale(entry->fd);
    }
    number = *index_slot(index, entry->inode);
    if (number && ledger_hold(number)) {
        if (ledger_hold(number) && !ledger_fd_restore(entry->fd, number))
            ledger_release(number);
        return number;
    }
    return make_found_record(entry);
}

static void add_socket(struct snapshot *out, const struct inode_index *index,
                       const struct snapshot_fd *entry) {
    struct ledger_record *record = ledger_record(entry->record);
    uint32_t *slot = index_slot(index, entry->inode);
    if (*slot == 0) {
        *slot = entry->record;
        out->sockets[out->socket_count++] = entry->record;
        record->fd_count = 0;
        record->first_fd = entry->fd;
    }
    if (record->fd_count < UINT16_MAX)
        record->fd_count++;
    if (entry->fd < record->first_fd)
        record->first_fd = entry->fd;
}

static int explain(struct snapshot *out, struct scratch *scratch) {
    struct inode_index index;
    out->sockets = scratch_take(scratch, (size_t)out->fd_count * sizeof *out->sockets);
    if (!out->sockets || !index_open(&index, scratch, out->fd_count))
        return -ENOMEM;
    // Known ones first: an fd seen by a socket's record helps its other fds. Then the rest, which
    // has by now also given a birth that was under way in another thread the time to be entered.
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < out->fd_count; i++) {
            struct snapshot_fd *entry = &out->fds[i];
            if (entry->record)
                continue;
            uint32_t number = ledger_fd(entry->fd);
            if (pass == 0 && (number == 0 || ledger_record(number)->inode != entry->inode))
                continue;
            entry->record = record_for(entry, &index);
            if (entry->record)
                add_socket(out, &index, entry);
            else
                out->unrecorded++;
        }
    }
    return 0;
}

// Records whose fd is no socket, or closed, without a close that we saw.
static void drop_vanished(void) {
    int limit = ledger_fd_limit();
    for (int fd = 0; fd < limit; fd++) {
        uint32_t number = ledger_fd(fd);
        if (number && socket_inode(fd) != ledger_record(number)->inode && ledger_fd(fd) == number)
            drop_stale(fd);
    }
}

// --- what the kernel says of each ---------------------------------------------------------------

static int socket_option(int fd, int name) {
    int value = 0;
    unsigned bytes = sizeof value;
    return sys_getsockopt(fd, SOL_SOCKET, name, &value, &bytes) < 0 ? 0 : value;
}

static void look_at_kind(struct ledger_record *record, int fd) {
    if (record->family && record->type && record->protocol)
        return;
    record->family = (uint16_t)socket_option(fd, SO_DOMAIN);
    record->type = (uint16_t)socket_option(fd, SO_TYPE);
    record->protocol = (uint16_t)socket_option(fd, SO_PROTOCOL);
}

static void look_at_address(struct ledger_address *out, int fd, long call) {
    struct sockaddr_in6 address = {0};
    unsigned bytes = sizeof address;
    if (sys_call(call, fd, (long)&address, (long)&bytes, 0, 0, 0) < 0)
        return; // what is known from connect or accept stands
    if (address.sin6_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&address;
        *out = (struct ledger_address){.family = ADDRESS_INET, .port = ntohs(in->sin_port)};
        memcpy(out->ip, &in->sin_addr, sizeof in->sin_addr);
    } else if (address.sin6_family == AF_INET6) {
        *out = (struct ledger_address){.family = ADDRESS_INET6,
                                       .port = ntohs(address.sin6_port),
                                       .scope_id = address.sin6_scope_id};
        memcpy(out->ip, &address.sin6_addr, sizeof address.sin6_addr);
    }
}

static void look_at_queues(struct ledger_snapshot *snapshot, int fd) {
    int in = 0, out = 0;
    if (sys_call(SYS_ioctl, fd, SIOCINQ, (long)&in, 0, 0, 0) < 0 ||
        sys_call(SYS_ioctl, fd, SIOCOUTQ, (long)&out, 0, 0, 0) < 0)
        return;
    snapshot->recv_queue_bytes = (uint32_t)in;
    snapshot->send_queue_bytes = (uint32_t)out;
    snapshot->flags |= SNAPSHOT_HAS_QUEUES;
}

static uint32_t since_ms(uint64_t then_ns, uint64_t now_ns) {
    return then_ns && then_ns < now_ns ? (uint32_t)((now_ns - then_ns) / 1000000) : 0;
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

// tcpi_last_ack_recv is the time since the last segment with an ACK, and each FIN has one: in
// CLOSE_WAIT that is the FIN, unless this side has sent data since, whose ACKs are later. Then the
// FIN is at least as old as the end of stream that the program read.
static void look_at_age(const struct ledger_record *record, struct ledger_snapshot *snapshot,
                        const struct tcp_info *info) {
    uint64_t now = snapshot->taken_ns;
    bool told = record->error_ns || record->eof_ns;
    uint32_t told_ms = since_ms(record->error_ns ? record->error_ns : record->eof_ns, now);
    uint32_t age_ms = info->tcpi_last_ack_recv;
    if (snapshot->state == STATE_CLOSE && !told && !(record->flags & RECORD_SHUT_WR)) {
        age_ms = smaller(age_ms, smaller(info->tcpi_last_data_recv, info->tcpi_last_data_sent));
        snapshot->flags |= SNAPSHOT_RESET_AGE_IS_BOUND;
    } else if (told_ms > age_ms || snapshot->state == STATE_CLOSE) {
        age_ms = told ? told_ms : age_ms;
    }
    // The kernel counts in ticks of some milliseconds; no state is older than the socket.
    snapshot->state_age_ms =
        record->birth_ns ? smaller(age_ms, since_ms(record->birth_ns, now)) : age_ms;
}

static void look_at_tcp(struct ledger_record *record, struct ledger_snapshot *snapshot, int fd) {
    struct tcp_info info;
    memset(&info, 0, sizeof info);
    unsigned bytes = sizeof info;
    if (sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) < 0)
        return;
    snapshot->state = info.tcpi_state;
    snapshot->last_data_sent_ms = info.tcpi_last_data_sent;
    snapshot->last_data_recv_ms = info.tcpi_last_data_recv;
    snapshot->flags |= SNAPSHOT_HAS_TCP_INFO;
    // The SYN that our side sent was acknowledged, or data came: it was ESTABLISHED once.
    if (info.tcpi_bytes_acked || info.tcpi_bytes_received)
        snapshot->flags |= SNAPSHOT_WAS_CONNECTED;
    look_at_age(record, snapshot, &info);
}

// AF_UNIX has no states to ask for. Its nearest likeness: POLLRDHUP says that the peer is gone or
// has shut down, which is CLOSE_WAIT.
static void look_at_unix(struct ledger_record *record, struct ledger_snapshot *snapshot, int fd) {
    struct pollfd poll = {.fd = fd, .events = POLLRDHUP};
    struct timespec at_once = {0};
    if (sys_call(SYS_ppoll, (long)&poll, 1, (long)&at_once, 0, 0, 0) < 0)
        return;
    int listening = socket_option(fd, SO_ACCEPTCONN);
    snapshot->state = listening                  ? STATE_LISTEN
                      : poll.revents & POLLRDHUP ? STATE_CLOSE_WAIT
                      : poll.revents & POLLHUP   ? STATE_CLOSE
                                                 : STATE_ESTABLISHED;
    // When it went is not known, unless the program was told.
    snapshot->state_age_ms = since_ms(record->eof_ns, snapshot->taken_ns);
}

static void look_at(struct ledger_record *record, enum ledger_ended ended, uint32_t ending_tid) {
    int fd = record->first_fd;
    struct ledger_snapshot snapshot = {.taken_ns = clock_now_ns(), .flags = SNAPSHOT_TAKEN};
    look_at_kind(record, fd);
    if (record->type == SOCK_STREAM && record->family == AF_UNIX)
        look_at_unix(record, &snapshot, fd);
    if (record->family == AF_INET || record->family == AF_INET6) {
        if (record->type == SOCK_STREAM)
            look_at_tcp(record, &snapshot, fd);
        look_at_address(&record->local, fd, SYS_getsockname);
        look_at_address(&record->peer, fd, SYS_getpeername);
    }
    if (record->type == SOCK_STREAM && snapshot.state != STATE_LISTEN)
        look_at_queues(&snapshot, fd);
    // A signal may have struck between the read and the close that was to follow: the thread that
    // it interrupted has not gone on.
    if (record->eof_tid && ended != ENDED_RUNNING && ended != ENDED_SIGNAL &&
        record->eof_tid == ending_tid)
        snapshot.flags |= SNAPSHOT_READER_WENT_ON;
    if (record->eof_tid && !process_has_thread(record->eof_tid))
        snapshot.flags |= SNAPSHOT_READER_WENT_ON;
    if (record->provenance == PROVENANCE_FOUND && record->first_fd + record->fd_count <= 3)
        snapshot.flags |= SNAPSHOT_STANDARD_STREAM;
    record->snapshot = snapshot;
}

// --- whose affair it is -------------------------------------------------------------------------

static bool may_be_the_parents(const struct ledger_record *record) {
    return record->type == SOCK_STREAM &&
           (record->snapshot.state == STATE_CLOSE_WAIT || record->snapshot.state == STATE_CLOSE) &&
           (record->process != ledger.header->process || record->provenance == PROVENANCE_FOUND);
}

struct parent {
    const struct snapshot *snapshot;
    char directory[40];
};

static bool compare_parents_fd(void *context, int fd) {
    struct parent *parent = context;
    char path[64], link[64];
    struct text_buffer name = text_buffer(path, sizeof path);
    text_string(&name, parent->directory);
    text_char(&name, '/');
    text_decimal(&name, (uint64_t)fd);
    long len = sys_readlinkat(AT_FDCWD, path, link, sizeof link);
    static const char prefix[] = "socket:[";
    uint64_t inode;
    if (len < (long)sizeof prefix || memcmp(link, prefix, sizeof prefix - 1) != 0 ||
        !text_parse(link + sizeof prefix - 1, link + len - 1, UINT64_MAX, &inode))
        return true;
    for (uint32_t i = 0; i < parent->snapshot->socket_count; i++) {
        struct ledger_record *record = ledger_record(parent->snapshot->sockets[i]);
        if (record->inode == inode && may_be_the_parents(record))
            record->snapshot.flags |= SNAPSHOT_HELD_BY_PARENT;
    }
    return true;
}

// A socket that a fork or exec left to us and that the process we came from still has open is that
// process's to close. Where its fds cannot be read (it is gone, or another user's) it is ours.
static void ask_parent(struct snapshot *snapshot, struct scratch *scratch) {
    bool needed = false;
    for (uint32_t i = 0; i < snapshot->socket_count && !needed; i++)
        needed = may_be_the_parents(ledger_record(snapshot->sockets[i]));
    char *buffer = needed ? scratch_take(scratch, DIRENTS_BYTES) : NULL;
    if (!buffer)
        return;
    struct parent parent = {.snapshot = snapshot};
    struct text_buffer name = text_buffer(parent.directory, sizeof parent.directory);
    text_string(&name, "/proc/");
    text_decimal(&name, (uint64_t)sys_getppid());
    text_string(&name, "/fd");
    each_fd_in(parent.directory, buffer, compare_parents_fd, &parent);
}

// --- all together -------------------------------------------------------------------------------

int snapshot_take(struct snapshot *out, struct scratch *scratch, enum ledger_ended ended) {
    memset(out, 0, sizeof *out);
    char *buffer = scratch_take(scratch, DIRENTS_BYTES);
    if (!buffer)
        return -ENOMEM;
    struct noting noting = {out, scratch};
    // Not /proc/self: that is the main thread, which may have ended before the others, and then has
    // no descriptors (an empty directory, no error).
    if (each_fd_in("/proc/thread-self/fd", buffer, note_each, &noting) < 0) {
        out->proc_missing = true;
        try_all_fds(&noting);
    }
    int error = explain(out, scratch);
    if (error < 0)
        return error;
    drop_vanished();
    uint32_t tid = (uint32_t)sys_gettid();
    for (uint32_t i = 0; i < out->socket_count; i++)
        look_at(ledger_record(out->sockets[i]), ended, tid);
    ask_parent(out, scratch);
    __atomic_store_n(&ledger.header->snapshot_ns, clock_now_ns(), __ATOMIC_RELEASE);
    return 0;
}

void snapshot_release(struct snapshot *snapshot) {
    for (uint32_t i = 0; i < snapshot->fd_count; i++)
        if (snapshot->fds[i].record)
            ledger_release(snapshot->fds[i].record);
}
