// What the kernel says of a live process, over what its ledger knows.
#include "base/clock.h"
#include "errors.h"
#include "gather.h"
#include <stdlib.h>
#include <string.h>

static bool same_exe(const char *ledgers, const char *observed) {
    static const char deleted[] = " (deleted)"; // proc(5), of /proc/PID/exe
    size_t len = strlen(ledgers);
    return strncmp(ledgers, observed, len) == 0 &&
           (observed[len] == '\0' || strcmp(observed + len, deleted) == 0);
}

// The ledger that belongs to the image which runs now; a new process where there is none.
static struct report_process *process_for(struct report *report,
                                          const struct report_process_facts *facts) {
    const char *boot_id = gather_boot_id(report);
    struct report_process *process =
        gather_find(report, facts->pid, facts->start_time_ticks, boot_id);
    bool is_this = process && !process->is_judged && !process->has_snapshot &&
                   (facts->has_its_ledger || !facts->exe || !process->exe[0] ||
                    same_exe(process->exe, facts->exe));
    if (is_this)
        return process;
    process = gather_process(report);
    process->pid = facts->pid;
    process->start_time_ticks = facts->start_time_ticks;
    process->boot_id = boot_id;
    process->created_ns = facts->now_ns;
    process->epoch_offset_ns = clock_epoch_ns() - clock_now_ns();
    return process;
}

static int by_inode(const void *a, const void *b) {
    const struct report_socket *one = a, *other = b;
    return one->record.inode < other->record.inode ? -1 : one->record.inode > other->record.inode;
}

static uint32_t ms_since(uint64_t then_ns, uint64_t now_ns) {
    uint64_t ms = then_ns < now_ns ? (now_ns - then_ns) / 1000000 : 0;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX; // after 49 days
}

// The kernel's ages may be those of a later segment: what the program was told of, it was told when
// the ledger says. An error ends the connection. End of stream does not: one that is dead as well
// may have died at any time since the last sign of life (of a timeout, or by `sockleak reap`).
static void correct_age(const struct ledger_record *record, struct ledger_snapshot *snapshot) {
    uint64_t told_ns = record->error_ns ? record->error_ns : record->eof_ns;
    uint32_t told_ms = ms_since(told_ns, snapshot->taken_ns);
    if (snapshot->state == STATE_CLOSE && record->error_ns) {
        snapshot->state_age_ms = told_ms;
        snapshot->flags &= (uint16_t)~SNAPSHOT_AGE_IS_BOUND;
    } else if (snapshot->state == STATE_CLOSE_WAIT && told_ns && told_ms > snapshot->state_age_ms) {
        snapshot->state_age_ms = told_ms;
    }
}

// Can a read that returned 0 have been the end of the peer's stream?
static bool has_ended(uint8_t state) {
    return state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK || state == STATE_CLOSING ||
           state == STATE_TIME_WAIT || state == STATE_CLOSE;
}

// What only the ledger tells, as the library's own snapshot does it (report/snapshot.c): whose
// affair the socket is, and how old its state is.
static void explain_snapshot(struct ledger_record *record, uint32_t process) {
    struct ledger_snapshot *snapshot = &record->snapshot;
    bool is_found = record->provenance == PROVENANCE_FOUND;
    if (!is_found)
        snapshot->flags &= (uint16_t)~SNAPSHOT_STANDARD_STREAM;
    if (!is_found && !verdict_is_inherited(record, process))
        snapshot->flags &= (uint16_t)~SNAPSHOT_HELD_BY_PARENT;
    correct_age(record, snapshot);
}

static void overlay(struct report *report, struct report_socket *socket,
                    const struct report_socket_facts *facts) {
    struct ledger_record *record = &socket->record;
    record->inode = facts->inode;
    if (facts->family)
        record->family = facts->family;
    if (facts->type)
        record->type = facts->type;
    if (facts->protocol)
        record->protocol = facts->protocol;
    if (facts->local.family)
        record->local = facts->local;
    if (facts->peer.family)
        record->peer = facts->peer;
    record->snapshot = facts->snapshot;
    record->snapshot.flags |= SNAPSHOT_TAKEN;
    if ((record->flags & RECORD_EOF_UNASKED) && record->snapshot.state &&
        !has_ended(record->snapshot.state)) {
        record->eof_ns = 0;
        socket->end_of_stream = NULL;
    }
    explain_snapshot(record, socket->process->process);
    socket->hints |= facts->hints;
    socket->is_fin_consumed = facts->is_fin_consumed;
    if (facts->fd_count) {
        size_t bytes = facts->fd_count * sizeof *facts->fds;
        socket->fds = memcpy(arena_take(&report->arena, 1, bytes), facts->fds, bytes);
        socket->fd_count = facts->fd_count;
        record->first_fd = facts->fds[0];
        record->fd_count = (uint16_t)(facts->fd_count < UINT16_MAX ? facts->fd_count : UINT16_MAX);
    }
}

static uint64_t listed_inode(const struct report_process_facts *facts, int fd) {
    for (uint32_t i = 0; i < facts->socket_count; i++)
        for (uint32_t k = 0; k < facts->sockets[i].fd_count; k++)
            if (facts->sockets[i].fds[k] == fd)
                return facts->sockets[i].inode;
    return 0;
}

// The library may know its newest sockets by their fd alone (preload/track/unasked.h). The ledger
// was read between the listing and now: an fd that was the same socket both times was so then.
static void ask_inodes(struct report_process *process, const struct report_process_facts *facts) {
    for (uint32_t i = 0; i < process->socket_count; i++) {
        struct report_socket *socket = &process->sockets[i];
        if (socket->record.inode != LEDGER_INODE_UNASKED)
            continue;
        uint64_t inode = 0;
        for (uint32_t k = 0; k < socket->fd_count && inode == 0 && facts->inode_now; k++) {
            uint64_t listed = listed_inode(facts, socket->fds[k]);
            if (listed && facts->inode_now(facts->pid, socket->fds[k]) == listed)
                inode = listed;
        }
        socket->record.inode = inode;
    }
}

int report_observe(struct report *report, const struct report_process_facts *facts) {
    struct report_process *process = process_for(report, facts);
    ask_inodes(process, facts);
    process->is_observed = true;
    process->now_ns = facts->now_ns;
    if (facts->parent_pid)
        process->parent_pid = facts->parent_pid;
    if (facts->exe && !process->exe[0])
        process->exe = arena_name(&report->arena, facts->exe);
    if (!process->cmdline_count)
        gather_cmdline(report, process, facts->cmdline, facts->cmdline_bytes);
    if (facts->unwatched)
        process->unwatched = arena_name(&report->arena, facts->unwatched);
    if (process->socket_count)
        qsort(process->sockets, process->socket_count, sizeof *process->sockets, by_inode);
    struct report_socket *sockets = must_allocate(facts->socket_count, sizeof *sockets);
    for (uint32_t i = 0; i < facts->socket_count; i++) {
        struct report_socket wanted = {.record.inode = facts->sockets[i].inode};
        const struct report_socket *known =
            process->socket_count
                ? bsearch(&wanted, process->sockets, process->socket_count, sizeof wanted, by_inode)
                : NULL;
        if (known)
            sockets[i] = *known;
        else
            sockets[i].record.provenance = PROVENANCE_FOUND;
        sockets[i].process = process;
        if (!known) {
            sockets[i].record.process = process->process;
            sockets[i].is_left_by_exec = facts->opened_nothing;
        }
        overlay(report, &sockets[i], &facts->sockets[i]);
    }
    free(process->sockets);
    process->sockets = sockets;
    process->socket_count = facts->socket_count;
    for (uint32_t i = 0; i < report->module_count; i++)
        report->modules[i]->pid = report->modules[i]->pid ? report->modules[i]->pid : facts->pid;
    return 0;
}
