#include "scan_group.h"
#include "errors.h"
#include <stdlib.h>
#include <string.h>

// --- TIME_WAIT ----------------------------------------------------------------------------------

void scan_add_time_wait(struct scan_result *result, const struct diag_socket *socket,
                        const struct diag_table *table) {
    bool in_range = table->last_port && socket->local.port >= table->first_port &&
                    socket->local.port <= table->last_port;
    result->destinations =
        must_grow(result->destinations, result->destination_count, sizeof *result->destinations);
    struct scan_destination *fresh = &result->destinations[result->destination_count++];
    *fresh = (struct scan_destination){
        .local = socket->local, .peer = socket->peer, .count = 1, .space = result->namespaces};
    fresh->local.port = 0;
    if (in_range)
        fresh->port_count = (uint32_t)table->last_port - table->first_port + 1;
}

// A local port serves each destination once: the address to come from, the one to go to, its port,
// in each network namespace.
static int by_destination(const void *left, const void *right) {
    const struct scan_destination *a = left, *b = right;
    int order = memcmp(&a->peer, &b->peer, sizeof a->peer);
    if (order == 0)
        order = memcmp(&a->local, &b->local, sizeof a->local);
    if (order == 0)
        order = (a->space > b->space) - (a->space < b->space);
    return order ? order : (a->port_count > b->port_count) - (a->port_count < b->port_count);
}

static int most_time_wait_first(const void *left, const void *right) {
    const struct scan_destination *a = left, *b = right;
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    return by_destination(a, b);
}

static void group_destinations(struct scan_result *result) {
    struct scan_destination *all = result->destinations;
    uint32_t count = result->destination_count, kept = 0;
    if (count == 0)
        return;
    qsort(all, count, sizeof *all, by_destination);
    for (uint32_t i = 0; i < count; i++)
        if (kept && by_destination(&all[kept - 1], &all[i]) == 0)
            all[kept - 1].count++;
        else
            all[kept++] = all[i];
    result->destination_count = kept;
    qsort(all, kept, sizeof *all, most_time_wait_first);
}

// --- CLOSE_WAIT ---------------------------------------------------------------------------------

static int oldest_first(const void *left, const void *right) {
    const struct diag_socket *a = &((const struct scan_socket *)left)->kernel;
    const struct diag_socket *b = &((const struct scan_socket *)right)->kernel;
    if (a->last_ack_recv_ms != b->last_ack_recv_ms)
        return a->last_ack_recv_ms > b->last_ack_recv_ms ? -1 : 1;
    return a->inode < b->inode ? -1 : a->inode > b->inode;
}

static int most_of_a_peer_first(const void *left, const void *right) {
    const struct scan_peer *a = left, *b = right;
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    return a->oldest_ms > b->oldest_ms ? -1 : a->oldest_ms < b->oldest_ms;
}

static int by_peer(const void *left, const void *right) {
    const struct scan_peer *a = left, *b = right;
    int order = memcmp(&a->address, &b->address, sizeof a->address);
    if (order == 0)
        order = (int)a->local_port - (int)b->local_port;
    return order ? order : (int)a->is_waiting - (int)b->is_waiting;
}

static void group_peers(struct scan_process *process) {
    uint32_t count = process->socket_count, kept = 0;
    struct scan_peer *peers = must_allocate(count, sizeof *peers);
    for (uint32_t i = 0; i < count; i++) {
        const struct scan_socket *socket = &process->sockets[i];
        peers[i] = (struct scan_peer){.address = socket->kernel.peer,
                                      .is_waiting = socket->is_waiting,
                                      .count = 1,
                                      .oldest_ms = socket->kernel.last_ack_recv_ms};
        if (socket->is_from_peer) {
            peers[i].address.port = 0;
            peers[i].local_port = socket->kernel.local.port;
        }
    }
    qsort(peers, count, sizeof *peers, by_peer);
    for (uint32_t i = 0; i < count; i++) {
        if (kept && by_peer(&peers[kept - 1], &peers[i]) == 0) {
            peers[kept - 1].count++;
            if (peers[i].oldest_ms > peers[kept - 1].oldest_ms)
                peers[kept - 1].oldest_ms = peers[i].oldest_ms;
        } else {
            peers[kept++] = peers[i];
        }
    }
    qsort(peers, kept, sizeof *peers, most_of_a_peer_first);
    process->peers = peers;
    process->peer_count = kept;
}

static void sum(struct scan_process *process) {
    for (uint32_t i = 0; i < process->socket_count; i++) {
        const struct diag_socket *socket = &process->sockets[i].kernel;
        process->eof_read += socket->fin_read;
        process->eof_unread += !socket->fin_read;
        process->data_unread += socket->recv_queue_bytes > 0;
        process->unread_bytes += socket->recv_queue_bytes;
        process->not_accepted += process->sockets[i].is_waiting;
    }
    process->oldest_ms = process->sockets[0].kernel.last_ack_recv_ms;
}

static int worst_first(const void *left, const void *right) {
    const struct scan_process *a = left, *b = right;
    if (a->socket_count != b->socket_count)
        return a->socket_count > b->socket_count ? -1 : 1;
    if (a->oldest_ms != b->oldest_ms)
        return a->oldest_ms > b->oldest_ms ? -1 : 1;
    return a->pid < b->pid ? -1 : a->pid > b->pid;
}

// --- what is left out ---------------------------------------------------------------------------

bool scan_is_younger(const struct scan_filter *filter, const struct diag_socket *socket) {
    return socket->last_ack_recv_ms < filter->older_ms;
}

static void free_process(struct scan_process *process) {
    for (uint32_t i = 0; i < process->socket_count; i++)
        free(process->sockets[i].fds);
    free(process->sockets);
    free(process->peers);
    free(process->title);
}

static void drop_younger_of(struct scan_process *process, const struct scan_filter *filter) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < process->socket_count; i++)
        if (scan_is_younger(filter, &process->sockets[i].kernel))
            free(process->sockets[i].fds);
        else
            process->sockets[kept++] = process->sockets[i];
    process->socket_count = kept;
}

static void drop_younger(struct scan_result *result) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < result->process_count; i++) {
        struct scan_process *process = &result->processes[i];
        drop_younger_of(process, &result->filter);
        if (process->socket_count)
            result->processes[kept++] = *process;
        else
            free_process(process);
    }
    result->process_count = kept;
}

// --- all together -------------------------------------------------------------------------------

void scan_group(struct scan_result *result) {
    drop_younger(result);
    for (uint32_t i = 0; i < result->process_count; i++) {
        struct scan_process *process = &result->processes[i];
        qsort(process->sockets, process->socket_count, sizeof *process->sockets, oldest_first);
        group_peers(process);
        sum(process);
    }
    if (result->process_count)
        qsort(result->processes, result->process_count, sizeof *result->processes, worst_first);
    group_destinations(result);
}

void scan_free(struct scan_result *result) {
    for (uint32_t i = 0; i < result->process_count; i++)
        free_process(&result->processes[i]);
    free(result->processes);
    free(result->destinations);
    memset(result, 0, sizeof *result);
}
