#include "live.h"
#include "diag.h"
#include "errors.h"
#include "listeners.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// --- descriptors --------------------------------------------------------------------------------

static void take_sockets(struct live_process *process, const struct procfs_socket *list,
                         size_t count) {
    process->sockets = must_allocate(count, sizeof *process->sockets);
    int32_t *fds = process->fds = must_allocate(count, sizeof *fds);
    for (size_t i = 0; i < count; i++) {
        fds[i] = list[i].fd;
        if (i > 0 && list[i].inode == list[i - 1].inode) {
            process->sockets[process->socket_count - 1].fd_count++;
            continue;
        }
        process->sockets[process->socket_count++] =
            (struct report_socket_facts){.inode = list[i].inode, .fds = &fds[i], .fd_count = 1};
    }
}

int live_add(struct live *live, pid_t pid) {
    struct procfs_status status;
    struct procfs_socket *list;
    size_t count;
    int error = procfs_status(pid, &status);
    if (error < 0 || status.state == 'Z' || status.state == 'X')
        return error < 0 ? error : -ESRCH;
    error = procfs_sockets(pid, &list, &count);
    if (error < 0)
        return error;
    live->processes = must_reallocate(live->processes, live->count + 1, sizeof *live->processes);
    struct live_process *process = &live->processes[live->count++];
    *process = (struct live_process){.pid = pid,
                                     .parent_pid = status.parent,
                                     .start_time_ticks = status.start_ticks,
                                     .exe = procfs_exe(pid)};
    process->cmdline = procfs_cmdline(pid, &process->cmdline_bytes);
    take_sockets(process, list, count);
    free(list);
    return 0;
}

bool live_runs_the_same(const struct live_process *process) {
    char *exe = procfs_exe(process->pid);
    bool same = exe && process->exe && strcmp(exe, process->exe) == 0;
    free(exe);
    return same;
}

// --- what the kernel says -----------------------------------------------------------------------

static void fill_kind(struct report_socket_facts *facts, const char *protocol) {
    static const struct {
        const char *name;
        uint16_t family, type, protocol;
    } kinds[] = {
        {"TCP", AF_INET, SOCK_STREAM, IPPROTO_TCP}, {"TCPv6", AF_INET6, SOCK_STREAM, IPPROTO_TCP},
        {"MPTCP", AF_INET, SOCK_STREAM, 262},       {"MPTCPv6", AF_INET6, SOCK_STREAM, 262},
        {"UDP", AF_INET, SOCK_DGRAM, IPPROTO_UDP},  {"UDPv6", AF_INET6, SOCK_DGRAM, IPPROTO_UDP},
        {"UNIX-STREAM", AF_UNIX, SOCK_STREAM, 0},   {"UNIX", AF_UNIX, SOCK_DGRAM, 0},
        {"NETLINK", AF_NETLINK, SOCK_RAW, 0},       {"PACKET", AF_PACKET, SOCK_RAW, 0},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, protocol) == 0) {
            facts->family = kinds[i].family;
            facts->type = kinds[i].type;
            facts->protocol = kinds[i].protocol;
        }
}

static void note_ages(struct ledger_snapshot *snapshot, uint32_t last_ack_recv_ms,
                      uint32_t last_data_recv_ms, uint32_t last_data_sent_ms) {
    snapshot->last_data_recv_ms = last_data_recv_ms;
    snapshot->last_data_sent_ms = last_data_sent_ms;
    snapshot->state_age_ms = last_ack_recv_ms;
    if (snapshot->state != STATE_CLOSE)
        return;
    // Nothing tells when a reset came: since the last sign of life at the most.
    if (last_data_recv_ms < snapshot->state_age_ms)
        snapshot->state_age_ms = last_data_recv_ms;
    if (last_data_sent_ms < snapshot->state_age_ms)
        snapshot->state_age_ms = last_data_sent_ms;
    snapshot->flags |= SNAPSHOT_AGE_IS_BOUND;
}

static void fill_from_table(struct live_process *process, struct report_socket_facts *facts,
                            const struct diag_socket *found) {
    struct ledger_snapshot *snapshot = &facts->snapshot;
    facts->family = found->local.family == ADDRESS_INET ? AF_INET : AF_INET6;
    facts->type = SOCK_STREAM;
    facts->protocol = IPPROTO_TCP;
    facts->local = found->local;
    if (found->state != STATE_LISTEN && found->peer.port)
        facts->peer = found->peer;
    snapshot->state = found->state;
    snapshot->flags = SNAPSHOT_TAKEN;
    if (found->state != STATE_LISTEN) {
        snapshot->recv_queue_bytes = found->recv_queue_bytes;
        snapshot->send_queue_bytes = found->send_queue_bytes;
        snapshot->flags |= SNAPSHOT_HAS_QUEUES;
    }
    if (found->has_info) {
        snapshot->flags |= SNAPSHOT_HAS_TCP_INFO;
        note_ages(snapshot, found->last_ack_recv_ms, found->last_data_recv_ms,
                  found->last_data_sent_ms);
        if (found->bytes_acked || found->bytes_received)
            snapshot->flags |= SNAPSHOT_WAS_CONNECTED;
        // As report/facts.c: the counters of bytes include the SYN and the FIN.
        if (found->data_segments_out)
            snapshot->flags |= SNAPSHOT_DATA_SENT;
        if (found->data_segments_in)
            snapshot->flags |= SNAPSHOT_DATA_RECEIVED;
    }
    if (found->state == STATE_CLOSE_WAIT) {
        facts->is_fin_consumed = found->fin_read;
        process->fin_read += found->fin_read;
        process->fin_not_read += !found->fin_read;
    }
}

static void fill_local(struct ledger_address *out, int fd) {
    struct sockaddr_in6 address = {0};
    socklen_t bytes = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) < 0 || address.sin6_port == 0)
        return;
    *out = (struct ledger_address){.port = ntohs(address.sin6_port)};
    if (address.sin6_family == AF_INET) {
        out->family = ADDRESS_INET;
        memcpy(out->ip, &((struct sockaddr_in *)(void *)&address)->sin_addr, 4);
    } else {
        out->family = ADDRESS_INET6;
        out->scope_id = address.sin6_scope_id;
        memcpy(out->ip, &address.sin6_addr, 16);
    }
}

static int second_reference(pid_t pid, int fd) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int copy = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    int error = errno;
    if (pidfd >= 0)
        close(pidfd);
    errno = error;
    return copy;
}

static void note_property(struct ledger_snapshot *snapshot, unsigned property, bool holds) {
    snapshot->properties_known |= (uint8_t)property;
    if (holds)
        snapshot->properties |= (uint16_t)property;
}

// Of the descriptor, not of the socket: proc_pid_fdinfo(5), in octal as open(2) has them.
static void note_fd_flags(pid_t pid, int fd, struct ledger_snapshot *snapshot) {
    char path[64], text[256];
    unsigned flags;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)pid, fd);
    const char *line = procfs_read(path, text, sizeof text) > 0 ? strstr(text, "flags:") : NULL;
    if (!line || sscanf(line, "flags: %o", &flags) != 1)
        return;
    note_property(snapshot, PROPERTY_NO_CLOEXEC, !(flags & O_CLOEXEC));
    note_property(snapshot, PROPERTY_BLOCKING_MODE, !(flags & O_NONBLOCK));
}

static void note_options(int fd, struct ledger_snapshot *snapshot) {
    struct timeval limit = {0};
    int keepalive = 0, user_timeout = 0;
    socklen_t bytes = sizeof limit;
    if ((snapshot->properties_known & PROPERTY_BLOCKING_MODE) &&
        getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &bytes) == 0)
        note_property(snapshot, PROPERTY_NO_READ_TIMEOUT,
                      (snapshot->properties & PROPERTY_BLOCKING_MODE) && limit.tv_sec == 0 &&
                          limit.tv_usec == 0);
    bytes = sizeof keepalive;
    if (getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &keepalive, &bytes) < 0)
        return;
    bytes = sizeof user_timeout;
    bool is_tcp = getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, &bytes) == 0;
    note_property(snapshot, PROPERTY_NO_KEEPALIVE, !keepalive && !(is_tcp && user_timeout));
}

void live_properties(pid_t pid, int fd, uint64_t inode, struct ledger_snapshot *snapshot) {
    struct stat status;
    int copy = second_reference(pid, fd);
    if (copy < 0)
        return;
    if (fstat(copy, &status) == 0 && status.st_ino == inode) {
        note_fd_flags(pid, fd, snapshot);
        note_options(copy, snapshot);
        if (snapshot->flags & SNAPSHOT_HAS_QUEUES)
            note_property(snapshot, PROPERTY_UNREAD_DATA, snapshot->recv_queue_bytes > 0);
    }
    close(copy);
}

// tcp_reset() in net/ipv4/tcp_input.c leaves the error there for the program's next call; poll(2)
// sees it, and takes nothing away.
static bool has_pending_error(int fd) {
    struct pollfd look = {.fd = fd};
    return poll(&look, 1, 0) == 1 && (look.revents & POLLERR);
}

// A TCP socket that is in no table has no connection, or has lost it. Nobody can be hurt when we
// hold a second reference to it for a moment and ask it ourselves (pidfd_getfd(2)). Returns false
// where the descriptor is no longer this socket.
static bool ask_the_socket(const struct live_process *process, struct report_socket_facts *facts) {
    int fd = second_reference(process->pid, facts->fds[0]);
    if (fd < 0)
        return errno != ESRCH && errno != EBADF;
    struct tcp_info info;
    struct stat status;
    memset(&info, 0, sizeof info);
    socklen_t bytes = sizeof info;
    bool is_same = fstat(fd, &status) == 0 && status.st_ino == facts->inode;
    if (is_same && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0) {
        struct ledger_snapshot *snapshot = &facts->snapshot;
        int unread = 0;
        snapshot->state = info.tcpi_state;
        snapshot->flags |= SNAPSHOT_TAKEN | SNAPSHOT_HAS_TCP_INFO;
        note_ages(snapshot, info.tcpi_last_ack_recv, info.tcpi_last_data_recv,
                  info.tcpi_last_data_sent);
        // A round trip was measured: something of ours was acknowledged, be it the SYN.
        if (info.tcpi_bytes_acked || info.tcpi_bytes_received || info.tcpi_rtt)
            snapshot->flags |= SNAPSHOT_WAS_CONNECTED;
        if (snapshot->state == STATE_CLOSE && has_pending_error(fd))
            snapshot->flags |= SNAPSHOT_ERROR_PENDING;
        fill_local(&facts->local, fd);
        if (snapshot->state != STATE_LISTEN && ioctl(fd, FIONREAD, &unread) == 0) {
            snapshot->recv_queue_bytes = (uint32_t)unread;
            snapshot->flags |= SNAPSHOT_HAS_QUEUES;
        }
    }
    close(fd);
    return is_same;
}

// Returns false for a socket that was closed since its descriptor was listed.
static bool fill_one(struct live_process *process, struct report_socket_facts *facts,
                     const struct diag_table *table) {
    char protocol[32];
    const struct diag_socket *found = diag_find(table, facts->inode);
    facts->snapshot.taken_ns = table->taken_ns;
    if (found) {
        fill_from_table(process, facts, found);
        return true;
    }
    int error = procfs_socket_protocol(process->pid, facts->fds[0], protocol, sizeof protocol);
    if (error < 0)
        return error == -EACCES || error == -EPERM;
    fill_kind(facts, protocol);
    return facts->protocol != IPPROTO_TCP || ask_the_socket(process, facts);
}

static void fill(struct live_process *process, const struct diag_table *table) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < process->socket_count; i++) {
        struct report_socket_facts facts = process->sockets[i];
        if (fill_one(process, &facts, table))
            process->sockets[kept++] = facts;
    }
    process->socket_count = kept;
}

static bool has_socket(const struct live_process *process, uint64_t inode) {
    for (uint32_t i = 0; i < process->socket_count; i++)
        if (process->sockets[i].inode == inode)
            return true;
    return false;
}

// What waits for an accept() has no descriptor: only the table knows it.
static void count_not_accepted(struct live_process *process, const struct diag_table *table) {
    struct listeners *listeners = NULL;
    for (size_t i = 0; i < table->count && table->sockets[i].inode == 0; i++) {
        if (table->sockets[i].state != STATE_CLOSE_WAIT)
            continue;
        listeners = listeners ? listeners : listeners_new(table);
        const struct diag_socket *listener = listeners_claim(listeners, &table->sockets[i]);
        process->not_accepted += listener && has_socket(process, listener->inode);
    }
    listeners_free(listeners);
}

// --- whose affair it is -------------------------------------------------------------------------

// What a process was started with, and its parent still has open, is the parent's to close.
static void compare_with_parent(struct live_process *process) {
    struct procfs_socket *list;
    size_t count;
    if (process->socket_count == 0 || procfs_sockets(process->parent_pid, &list, &count) < 0)
        return;
    for (uint32_t i = 0, j = 0; i < process->socket_count; i++) {
        struct report_socket_facts *facts = &process->sockets[i];
        while (j < count && list[j].inode < facts->inode)
            j++;
        if (j < count && list[j].inode == facts->inode)
            facts->snapshot.flags |= SNAPSHOT_HELD_BY_PARENT;
        if (facts->fds[facts->fd_count - 1] <= STDERR_FILENO)
            facts->snapshot.flags |= SNAPSHOT_STANDARD_STREAM;
    }
    free(list);
}

// --- all together -------------------------------------------------------------------------------

static void ask_for_namespace(struct live *live, uint32_t first, const uint64_t *namespaces) {
    struct diag_table table;
    int error = diag_read_of(live->processes[first].pid, &table);
    for (uint32_t i = first; i < live->count; i++) {
        struct live_process *process = &live->processes[i];
        if (i != first && (namespaces[first] == 0 || namespaces[i] != namespaces[first]))
            continue;
        process->kernel_error = error;
        process->now_ns = error < 0 ? 0 : table.taken_ns;
        if (error == 0) {
            fill(process, &table);
            count_not_accepted(process, &table);
            compare_with_parent(process);
        }
    }
    if (error == 0)
        diag_free(&table);
}

void live_ask_kernel(struct live *live) {
    uint64_t *namespaces = must_allocate(live->count, sizeof *namespaces);
    for (uint32_t i = 0; i < live->count; i++)
        namespaces[i] = procfs_namespace(live->processes[i].pid, "net");
    for (uint32_t i = 0; i < live->count; i++)
        if (live->processes[i].now_ns == 0 && live->processes[i].kernel_error == 0)
            ask_for_namespace(live, i, namespaces);
    free(namespaces);
}

static uint64_t inode_now(uint32_t pid, int fd) {
    return procfs_socket_inode((pid_t)pid, fd);
}

int live_observe(const struct live_process *process, struct report *report, const char *unwatched) {
    struct report_process_facts facts = {
        .pid = (uint32_t)process->pid,
        .parent_pid = (uint32_t)process->parent_pid,
        .start_time_ticks = process->start_time_ticks,
        .now_ns = process->now_ns,
        .exe = process->exe,
        .cmdline = process->cmdline,
        .cmdline_bytes = process->cmdline_bytes,
        .sockets = process->sockets,
        .socket_count = process->socket_count,
        .unwatched = unwatched,
        .opened_nothing = process->opened_nothing,
        .has_its_ledger = process->has_its_ledger,
        .inode_now = inode_now,
    };
    return report_observe(report, &facts);
}

void live_drop_last(struct live *live) {
    struct live_process *process = &live->processes[--live->count];
    free(process->fds);
    free(process->sockets);
    free(process->exe);
    free(process->cmdline);
}

void live_free(struct live *live) {
    while (live->count)
        live_drop_last(live);
    free(live->processes);
    *live = (struct live)LIVE_EMPTY;
}
