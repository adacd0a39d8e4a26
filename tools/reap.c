#include "reap.h"
#include "errors.h"
#include "procfs.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void settle(struct reap_socket *socket, enum reap_result result, const char *why, ...)
    __attribute__((format(printf, 3, 4)));

static void settle(struct reap_socket *socket, enum reap_result result, const char *why, ...) {
    va_list arguments;
    socket->result = result;
    va_start(arguments, why);
    vsnprintf(socket->why, sizeof socket->why, why, arguments);
    va_end(arguments);
}

// --- which --------------------------------------------------------------------------------------

// How long it has been in its state with nothing sent, at least. In CLOSE_WAIT what the kernel
// tells may be too short (an acknowledgement came later than the FIN), never too long: but what the
// ledger knows of the end of stream may be older than an answer to a peer that closed its side
// only.
static uint64_t age_of(const struct report_socket *socket) {
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    int64_t fin_age_ms = report_socket_fin_age_ms(socket);
    uint64_t age_ms = fin_age_ms >= 0 ? (uint64_t)fin_age_ms : snapshot->state_age_ms;
    bool has_sent_since =
        (snapshot->flags & SNAPSHOT_HAS_TCP_INFO) && snapshot->last_data_sent_ms < age_ms;
    return has_sent_since ? snapshot->last_data_sent_ms : age_ms;
}

static bool same_address(const struct ledger_address *a, const struct ledger_address *b) {
    size_t bytes = a->family == ADDRESS_INET ? 4 : 16;
    return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, bytes) == 0;
}

// The kernel's connection that the report speaks of.
static const struct diag_socket *connection_of(const struct reap *reap,
                                               const struct report_socket *socket) {
    const struct diag_socket *found = diag_find(&reap->table, socket->record.inode);
    bool is_same = found && found->state == socket->record.snapshot.state &&
                   same_address(&found->local, &socket->record.local) &&
                   same_address(&found->peer, &socket->record.peer);
    return is_same ? found : NULL;
}

static void add(struct reap *reap, const struct report_finding *finding,
                const struct report_socket *socket, uint64_t age_ms) {
    reap->sockets = must_reallocate(reap->sockets, reap->count + 1, sizeof *reap->sockets);
    struct reap_socket *added = &reap->sockets[reap->count++];
    *added = (struct reap_socket){.socket = socket, .finding = finding, .age_ms = age_ms};
    const struct diag_socket *connection = connection_of(reap, socket);
    if (connection)
        added->kernel = *connection;
    else if (socket->record.snapshot.state == STATE_CLOSE)
        settle(added, REAP_LEFT,
               "the kernel has let go of it already: only its descriptor is left");
    else
        settle(added, REAP_GONE, "not in the kernel's table of TCP connections");
}

static void add_finding(struct reap *reap, const struct report_finding *finding) {
    bool is_wanted = reap->verdicts & 1u << finding->verdict;
    if (!is_wanted || !verdict_is_leak(finding->verdict) || finding->suppressed_by)
        return;
    for (uint32_t i = 0; i < finding->socket_count; i++) {
        uint64_t age_ms = age_of(finding->sockets[i]);
        if (age_ms >= reap->older_ms)
            add(reap, finding, finding->sockets[i], age_ms);
        else
            reap->younger++;
    }
}

static int by_fd(const void *left, const void *right) {
    const struct reap_socket *a = left, *b = right;
    return (a->socket->record.first_fd > b->socket->record.first_fd) -
           (a->socket->record.first_fd < b->socket->record.first_fd);
}

// --- other hands --------------------------------------------------------------------------------

static void leave_to(struct reap *reap, pid_t pid, uint64_t inode) {
    struct procfs_status status;
    for (uint32_t i = 0; i < reap->count; i++) {
        struct reap_socket *socket = &reap->sockets[i];
        if (socket->result == REAP_LISTED && socket->socket->record.inode == inode)
            settle(socket, REAP_LEFT, "process %d (%s) has it open, too: --shared takes it, too",
                   (int)pid, procfs_status(pid, &status) == 0 ? status.name : "ended");
    }
}

static int leave_what_it_holds(void *context, pid_t pid) {
    struct reap *reap = context;
    struct procfs_socket *list;
    size_t count;
    if (pid == reap->pid || procfs_sockets(pid, &list, &count) < 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        leave_to(reap, pid, list[i].inode);
    free(list);
    return 0;
}

// --- all together -------------------------------------------------------------------------------

static void count_listed(struct reap *reap) {
    reap->listed = 0;
    for (uint32_t i = 0; i < reap->count; i++)
        reap->listed += reap->sockets[i].result == REAP_LISTED;
}

int reap_open(struct reap *reap) {
    struct procfs_status status;
    int error = procfs_status(reap->pid, &status);
    if (error == 0)
        error = diag_open_of(reap->pid, &reap->link);
    if (error == 0)
        error = diag_read_of(reap->pid, &reap->table);
    reap->start_ticks = error == 0 ? status.start_ticks : 0;
    return error;
}

int reap_list(struct reap *reap, const struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++) {
        const struct report_process *process = report->processes[i];
        bool is_it = process->pid == (uint32_t)reap->pid && process->is_observed &&
                     process->start_time_ticks == reap->start_ticks;
        for (uint32_t k = 0; is_it && k < process->finding_count; k++)
            add_finding(reap, &process->findings[k]);
    }
    if (reap->count)
        qsort(reap->sockets, reap->count, sizeof *reap->sockets, by_fd);
    int error =
        reap->take_shared || reap->count == 0 ? 0 : procfs_each_process(leave_what_it_holds, reap);
    count_listed(reap);
    return error;
}

void reap_free(struct reap *reap) {
    diag_close(reap->link);
    diag_free(&reap->table);
    free(reap->sockets);
    reap->link = NULL;
    reap->sockets = NULL;
    reap->count = reap->listed = reap->younger = 0;
}

const char *reap_result_name(enum reap_result result) {
    static const char *const names[REAP_RESULTS] = {"listed", "destroyed", "gone", "left",
                                                    "failed"};
    return names[result];
}

// --- destroying ---------------------------------------------------------------------------------

static bool is_still_open(const struct reap *reap, const struct report_socket *socket) {
    char path[64], link[64], wanted[64];
    struct procfs_status status;
    if (procfs_status(reap->pid, &status) < 0 || status.start_ticks != reap->start_ticks)
        return false;
    snprintf(wanted, sizeof wanted, "socket:[%llu]", (unsigned long long)socket->record.inode);
    for (uint32_t i = 0; i < socket->fd_count; i++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)reap->pid, (int)socket->fds[i]);
        ssize_t len = readlink(path, link, sizeof link - 1);
        link[len > 0 ? len : 0] = '\0';
        if (strcmp(link, wanted) == 0)
            return true;
    }
    return false;
}

static bool has_moved(const struct diag_socket *then, const struct diag_socket *now) {
    return then->bytes_acked != now->bytes_acked || then->bytes_received != now->bytes_received ||
           then->recv_queue_bytes != now->recv_queue_bytes ||
           then->send_queue_bytes != now->send_queue_bytes || then->fin_read != now->fin_read;
}

// The last look: whether it is still what was listed.
static bool is_as_listed(const struct reap *reap, struct reap_socket *socket) {
    struct diag_socket now;
    if (!is_still_open(reap, socket->socket)) {
        settle(socket, REAP_GONE, "the program has closed it");
        return false;
    }
    int error = diag_ask(reap->link, &socket->kernel, &now);
    if (error == -ENOENT || error == -ESTALE)
        settle(socket, REAP_GONE, "the connection has ended");
    else if (error < 0)
        settle(socket, REAP_FAILED, "the kernel does not tell of it: %s", strerror(-error));
    else if (now.inode != socket->kernel.inode || now.state != socket->kernel.state)
        settle(socket, REAP_GONE, "the connection is in another state");
    else if (has_moved(&socket->kernel, &now))
        settle(socket, REAP_GONE, "the program is using it");
    else
        return true;
    return false;
}

static int destroy_one(const struct reap *reap, struct reap_socket *socket) {
    if (!is_as_listed(reap, socket))
        return 0;
    int error = diag_destroy(reap->link, &socket->kernel);
    if (error == -ENOENT || error == -ESTALE)
        settle(socket, REAP_GONE, "the connection has ended");
    else if (error < 0)
        settle(socket, REAP_FAILED, "%s", strerror(-error));
    else
        socket->result = REAP_DESTROYED;
    return error == -EPERM || error == -EACCES || error == -EOPNOTSUPP ? error : 0;
}

int reap_destroy(struct reap *reap) {
    int error = 0;
    for (uint32_t i = 0; error == 0 && i < reap->count; i++)
        if (reap->sockets[i].result == REAP_LISTED)
            error = destroy_one(reap, &reap->sockets[i]);
    return error == -EACCES ? -EPERM : error;
}
