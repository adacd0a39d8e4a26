// Gathers what scan.h promises: the kernel's tables, one for each network namespace, and then the
// descriptors of those who may hold what is in them.
#include "errors.h"
#include "listeners.h"
#include "procfs.h"
#include "scan.h"
#include "scan_group.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// In CLOSE_WAIT, and no program has accepted it: it has no descriptor and no inode.
struct waiting {
    const struct diag_socket *socket;
    const struct diag_socket *listener; // in whose accept queue; NULL not known
};

struct namespace {
    uint64_t inode;
    struct diag_table table;
    bool *attributed; // by index into the table: a process was found that has it
    uint32_t processes;
    int error;
    bool has_close_wait; // that are wanted
    struct listeners *listeners;
    struct waiting *waiting; // those of them
    uint32_t waiting_count;
};

struct collection {
    const struct scan_filter *filter;
    struct scan_result *result;
    struct namespace *namespaces;
    uint32_t namespace_count;
    int error;
};

// --- namespaces ---------------------------------------------------------------------------------

static bool is_wanted(const struct scan_filter *filter, const struct diag_socket *socket) {
    return !filter->port || socket->local.port == filter->port || socket->peer.port == filter->port;
}

static bool is_wanted_close_wait(const struct scan_filter *filter,
                                 const struct diag_socket *socket) {
    return socket->state == STATE_CLOSE_WAIT && is_wanted(filter, socket);
}

static void add_waiting(struct namespace *space, const struct diag_socket *socket) {
    space->waiting = must_grow(space->waiting, space->waiting_count, sizeof *space->waiting);
    space->waiting[space->waiting_count++] =
        (struct waiting){socket, listeners_claim(space->listeners, socket)};
}

static void look_through(struct namespace *space, const struct scan_filter *filter) {
    const struct diag_table *table = &space->table;
    space->listeners = listeners_new(table);
    space->attributed = must_allocate(table->count, sizeof *space->attributed);
    for (size_t i = 0; i < table->count; i++) {
        const struct diag_socket *socket = &table->sockets[i];
        if (!is_wanted_close_wait(filter, socket))
            continue;
        space->has_close_wait = true;
        if (socket->inode == 0)
            add_waiting(space, socket);
    }
}

static struct namespace *namespace_of(struct collection *all, pid_t pid) {
    uint64_t inode = procfs_namespace(pid, "net");
    // Not to be known: another user's. Where there are no containers it is our own, and where it is
    // not, its sockets are not found in our table: they are counted as unattributed at worst.
    if (inode == 0)
        inode = procfs_namespace(getpid(), "net");
    for (uint32_t i = 0; i < all->namespace_count; i++)
        if (all->namespaces[i].inode == inode)
            return &all->namespaces[i];
    all->namespaces =
        must_reallocate(all->namespaces, all->namespace_count + 1, sizeof *all->namespaces);
    struct namespace *space = &all->namespaces[all->namespace_count++];
    memset(space, 0, sizeof *space);
    space->inode = inode;
    bool is_ours = inode == procfs_namespace(getpid(), "net");
    space->error = is_ours ? diag_read(&space->table) : diag_read_of(pid, &space->table);
    if (space->error == 0)
        look_through(space, all->filter);
    else
        memset(&space->table, 0, sizeof space->table);
    return space;
}

static int visit_namespace(void *context, pid_t pid) {
    struct collection *all = context;
    struct namespace *space = namespace_of(all, pid);
    space->processes++;
    return space->error == -EXDEV ? -EXDEV : 0;
}

// --- processes ----------------------------------------------------------------------------------

static struct scan_process *add_process(struct scan_result *result, pid_t pid, uid_t uid) {
    result->processes =
        must_reallocate(result->processes, result->process_count + 1, sizeof *result->processes);
    struct scan_process *process = &result->processes[result->process_count++];
    *process = (struct scan_process){.pid = pid, .uid = uid};
    process->title = pid ? procfs_title(pid) : must_copy("(may not be looked at)");
    if (!process->title)
        process->title = must_copy("?");
    return process;
}

static struct scan_socket *add_socket(struct scan_process *process, struct namespace *space,
                                      const struct diag_socket *kernel) {
    process->sockets = must_grow(process->sockets, process->socket_count, sizeof *process->sockets);
    struct scan_socket *socket = &process->sockets[process->socket_count++];
    *socket =
        (struct scan_socket){.kernel = *kernel,
                             .is_from_peer = listeners_have(space->listeners, kernel->local.port),
                             .is_waiting = kernel->inode == 0};
    space->attributed[kernel - space->table.sockets] = true;
    return socket;
}

// The list is sorted: the descriptors of a socket lie together.
static void add_fd(struct scan_process *process, struct namespace *space,
                   const struct diag_socket *kernel, int fd) {
    struct scan_socket *socket =
        process->socket_count ? &process->sockets[process->socket_count - 1] : NULL;
    if (!socket || socket->kernel.inode != kernel->inode)
        socket = add_socket(process, space, kernel);
    socket->fds = must_reallocate(socket->fds, socket->fd_count + 1, sizeof *socket->fds);
    socket->fds[socket->fd_count++] = fd;
}

// What waits for an accept() on `listener`, which this process has open.
static void add_queue(struct scan_process *process, struct namespace *space,
                      const struct diag_socket *listener) {
    for (uint32_t i = 0; i < space->waiting_count; i++)
        if (space->waiting[i].listener == listener)
            add_socket(process, space, space->waiting[i].socket);
}

static bool has_queue(const struct namespace *space, const struct diag_socket *listener) {
    for (uint32_t i = 0; listener->state == STATE_LISTEN && i < space->waiting_count; i++)
        if (space->waiting[i].listener == listener)
            return true;
    return false;
}

static int visit_process(void *context, pid_t pid) {
    struct collection *all = context;
    struct namespace *space = namespace_of(all, pid);
    if (space->error < 0 || (!space->has_close_wait && all->filter->pid != pid))
        return 0;
    struct procfs_socket *list;
    size_t count;
    int error = procfs_sockets(pid, &list, &count);
    if (error == -EACCES || error == -EPERM)
        all->result->unread_processes++;
    if (error < 0)
        return all->filter->pid ? error : 0;
    struct scan_process *process = NULL;
    uint32_t index = all->result->process_count;
    for (size_t i = 0; i < count; i++) {
        const struct diag_socket *kernel = diag_find(&space->table, list[i].inode);
        bool is_first_fd = i == 0 || list[i].inode != list[i - 1].inode;
        bool is_listener = kernel && is_first_fd && has_queue(space, kernel);
        if (!kernel || !(is_listener || is_wanted_close_wait(all->filter, kernel)))
            continue;
        process = process ? &all->result->processes[index]
                          : add_process(all->result, pid, procfs_uid(pid));
        if (is_listener)
            add_queue(process, space, kernel);
        else
            add_fd(process, space, kernel, list[i].fd);
    }
    free(list);
    return 0;
}

static struct scan_process *process_of_user(struct scan_result *result, uint32_t first, uid_t uid) {
    for (uint32_t i = first; i < result->process_count; i++)
        if (result->processes[i].uid == uid)
            return &result->processes[i];
    return add_process(result, 0, uid);
}

// Sockets whose process may not be looked at: the kernel at least names their user.
static void add_unattributed(struct collection *all, struct namespace *space) {
    uint32_t first = all->result->process_count;
    for (size_t i = 0; i < space->table.count; i++) {
        const struct diag_socket *kernel = &space->table.sockets[i];
        if (kernel->inode && !space->attributed[i] && is_wanted_close_wait(all->filter, kernel))
            add_socket(process_of_user(all->result, first, kernel->uid), space, kernel);
    }
    for (uint32_t i = 0; i < space->waiting_count; i++) {
        const struct waiting *waiting = &space->waiting[i];
        uid_t uid = waiting->listener ? waiting->listener->uid : waiting->socket->uid;
        if (!space->attributed[waiting->socket - space->table.sockets])
            add_socket(process_of_user(all->result, first, uid), space, waiting->socket);
    }
}

// --- all together -------------------------------------------------------------------------------

static void count_close_wait(struct scan_result *result, const struct diag_socket *socket) {
    bool is_younger = scan_is_younger(&result->filter, socket);
    uint32_t *oldest_ms = is_younger ? &result->younger_oldest_ms : &result->oldest_ms;
    if (socket->last_ack_recv_ms > *oldest_ms)
        *oldest_ms = socket->last_ack_recv_ms;
    result->younger += is_younger;
    result->close_wait += !is_younger;
    result->not_accepted += !is_younger && socket->inode == 0;
}

static void count_namespace(struct collection *all, struct namespace *space) {
    struct scan_result *result = all->result;
    if (space->error < 0) {
        result->blind_namespaces++;
        result->blind_processes += space->processes;
        return;
    }
    result->namespaces++;
    if (!all->filter->pid)
        add_unattributed(all, space);
    for (size_t i = 0; i < space->table.count; i++) {
        const struct diag_socket *socket = &space->table.sockets[i];
        if (space->attributed[i])
            count_close_wait(result, socket);
        if (socket->state != STATE_TIME_WAIT || all->filter->pid || !is_wanted(all->filter, socket))
            continue;
        result->time_wait++;
        if (!listeners_have(space->listeners, socket->local.port))
            scan_add_time_wait(result, socket, &space->table);
    }
}

static void free_namespaces(struct collection *all) {
    for (uint32_t i = 0; i < all->namespace_count; i++) {
        diag_free(&all->namespaces[i].table);
        free(all->namespaces[i].attributed);
        listeners_free(all->namespaces[i].listeners);
        free(all->namespaces[i].waiting);
    }
    free(all->namespaces);
}

static int collect(struct collection *all) {
    struct namespace *own = namespace_of(all, getpid());
    if (own->error < 0)
        return own->error;
    all->result->first_port = own->table.first_port;
    all->result->last_port = own->table.last_port;
    if (all->filter->pid) {
        struct namespace *theirs = namespace_of(all, all->filter->pid);
        return theirs->error < 0 ? theirs->error : visit_process(all, all->filter->pid);
    }
    // All tables first: what is opened later is in none, and is left out.
    int error = procfs_each_process(visit_namespace, all);
    return error < 0 ? error : procfs_each_process(visit_process, all);
}

int scan_take(const struct scan_filter *filter, struct scan_result *out) {
    memset(out, 0, sizeof *out);
    out->filter = *filter;
    struct procfs_status status;
    if (filter->pid && procfs_status(filter->pid, &status) < 0)
        return -ESRCH;
    struct collection all = {.filter = filter, .result = out};
    int error = collect(&all);
    for (uint32_t i = 0; error == 0 && i < all.namespace_count; i++)
        count_namespace(&all, &all.namespaces[i]);
    free_namespaces(&all);
    if (error < 0)
        scan_free(out);
    else
        scan_group(out);
    return error;
}
