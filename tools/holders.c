#include "holders.h"
#include "base_name.h"
#include "errors.h"
#include "gather.h"
#include "procfs.h"
#include <stdlib.h>
#include <string.h>

enum {
    DESCRIPTORS_MAX = 1000000, // of all processes, that are looked at: a second's work at most
    HOLDERS_MAX = 16           // of one socket
};

struct found {
    struct report_socket *socket;
    struct report_holder holder;
};

struct search {
    struct report *report;
    struct report_socket **wanted; // leaked, sorted by inode
    uint32_t wanted_count;
    struct found *found;
    size_t found_count, found_room;
    size_t looked_at;
};

static int by_inode(const void *a, const void *b) {
    const struct report_socket *one = *(struct report_socket *const *)a;
    const struct report_socket *other = *(struct report_socket *const *)b;
    return one->record.inode < other->record.inode ? -1 : one->record.inode > other->record.inode;
}

// Inodes are the kernel's, of this boot.
static void list_wanted(struct search *search, bool of_this_boot) {
    const struct report *report = search->report;
    const char *boot_id = gather_boot_id(search->report);
    uint32_t room = 0;
    for (uint32_t i = 0; i < report->process_count; i++)
        room += report->processes[i]->socket_count;
    search->wanted = must_allocate(room, sizeof(void *));
    for (uint32_t i = 0; i < report->process_count; i++) {
        struct report_process *process = report->processes[i];
        bool is_asked = !process->is_judged && !(of_this_boot && strcmp(process->boot_id, boot_id));
        for (uint32_t k = 0; is_asked && k < process->socket_count; k++)
            if (verdict_is_leak((enum verdict)process->sockets[k].record.snapshot.verdict))
                search->wanted[search->wanted_count++] = &process->sockets[k];
    }
    qsort(search->wanted, search->wanted_count, sizeof(void *), by_inode);
}

static uint32_t first_of(const struct search *search, uint64_t inode) {
    uint32_t low = 0, high = search->wanted_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (search->wanted[middle]->record.inode < inode)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void note_holder(struct search *search, uint64_t inode, const struct report_holder *holder,
                        const char *boot_id) {
    for (uint32_t i = first_of(search, inode);
         i < search->wanted_count && search->wanted[i]->record.inode == inode; i++) {
        struct report_socket *socket = search->wanted[i];
        if (socket->process->pid == holder->pid ||
            (boot_id && strcmp(boot_id, socket->process->boot_id) != 0))
            continue;
        if (search->found_count == search->found_room) {
            search->found_room = search->found_room ? 2 * search->found_room : 16;
            search->found =
                must_reallocate(search->found, search->found_room, sizeof *search->found);
        }
        search->found[search->found_count++] = (struct found){socket, *holder};
    }
}

static int by_socket(const void *a, const void *b) {
    const struct found *one = a, *other = b;
    if (one->socket != other->socket)
        return one->socket < other->socket ? -1 : 1;
    if (one->holder.pid != other->holder.pid)
        return one->holder.pid < other->holder.pid ? -1 : 1;
    return one->holder.fd < other->holder.fd ? -1 : one->holder.fd > other->holder.fd;
}

static void take_old(struct search *search) {
    for (uint32_t i = 0; i < search->wanted_count; i++)
        for (uint32_t k = 0; k < search->wanted[i]->holder_count; k++)
            note_holder(search, search->wanted[i]->record.inode, &search->wanted[i]->holders[k],
                        NULL);
}

static void give_to_sockets(struct search *search) {
    take_old(search);
    if (search->found_count)
        qsort(search->found, search->found_count, sizeof *search->found, by_socket);
    for (size_t first = 0, end; first < search->found_count; first = end) {
        struct report_socket *socket = search->found[first].socket;
        struct report_holder *holders =
            arena_take(&search->report->arena, HOLDERS_MAX, sizeof *holders);
        uint32_t count = 0;
        for (end = first; end < search->found_count && search->found[end].socket == socket; end++)
            if ((end == first || by_socket(&search->found[end - 1], &search->found[end]) != 0) &&
                count < HOLDERS_MAX)
                holders[count++] = search->found[end].holder;
        socket->holders = holders;
        socket->holder_count = count;
    }
    free(search->found);
    free(search->wanted);
}

static const char *name_of(struct report *report, pid_t pid) {
    struct procfs_status status;
    return arena_name(&report->arena, procfs_status(pid, &status) < 0 ? "" : status.name);
}

static int look_at_process(void *context, pid_t pid) {
    struct search *search = context;
    struct procfs_socket *list;
    size_t count;
    if (procfs_sockets(pid, &list, &count) < 0)
        return 0; // another user's, or gone
    search->looked_at += count;
    for (size_t i = 0; i < count; i++) {
        uint32_t at = first_of(search, list[i].inode);
        if (at == search->wanted_count || search->wanted[at]->record.inode != list[i].inode)
            continue;
        struct report_holder holder = {(uint32_t)pid, list[i].fd, name_of(search->report, pid)};
        note_holder(search, list[i].inode, &holder, NULL);
    }
    free(list);
    return search->looked_at > DESCRIPTORS_MAX;
}

void holders_find_processes(struct report *report) {
    struct search search = {.report = report};
    list_wanted(&search, true);
    if (search.wanted_count)
        procfs_each_process(look_at_process, &search);
    give_to_sockets(&search);
}

// More records of one inode than are shown are passed over: in a hostile ledger all of them may be
// of the same, and each would be compared with each.
static void look_at_ledger(struct search *search, const struct report_process *process) {
    const char *name = arena_name(&search->report->arena, base_name(report_program(process)));
    const struct report_socket **sockets = must_allocate(process->socket_count, sizeof(void *));
    for (uint32_t i = 0; i < process->socket_count; i++)
        sockets[i] = &process->sockets[i];
    qsort(sockets, process->socket_count, sizeof(void *), by_inode);
    for (uint32_t i = 0, alike = 0; i < process->socket_count; i++) {
        const struct ledger_record *record = &sockets[i]->record;
        struct report_holder holder = {process->pid, record->first_fd, name};
        alike = i && sockets[i - 1]->record.inode == record->inode ? alike + 1 : 0;
        if (alike < HOLDERS_MAX && record->inode)
            note_holder(search, record->inode, &holder, process->boot_id);
    }
    free(sockets);
}

void holders_find_ledgers(struct report *report) {
    struct search search = {.report = report};
    list_wanted(&search, false);
    for (uint32_t i = 0; search.wanted_count && i < report->process_count; i++)
        if (!report->processes[i]->is_judged && report->processes[i]->socket_count)
            look_at_ledger(&search, report->processes[i]);
    give_to_sockets(&search);
}
