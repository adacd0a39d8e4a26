#include "causes.h"
#include "errors.h"
#include "judge.h"
#include "live.h"
#include "procfs.h"
#include "thread_calls.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    TEXT_BYTES = 1024,
    THREADS_ASKED_MAX = 1024
};

// --- what its thread does now -------------------------------------------------------------------
// As preload/report/threads.c has it of its own process.

struct thread {
    uint32_t tid;
    uint64_t last_seen_ns; // opened a socket, or read end of stream, that is still open
    bool is_asked, is_known;
    int32_t call, fd; // as thread_call and thread_fd of struct ledger_snapshot
};

struct threads {
    struct thread *list; // sorted by tid
    uint32_t count, asked;
    bool have_other_ids; // in another pid namespace: /proc has them by other numbers here
};

static int by_tid(const void *a, const void *b) {
    const struct thread *one = a, *other = b;
    return one->tid < other->tid ? -1 : one->tid > other->tid;
}

// Threads of another process do not count: a record that a fork left here names its parent's.
static bool is_own(const struct report_process *process, const struct ledger_record *record) {
    return !verdict_is_inherited(record, process->process);
}

static struct threads list_threads(const struct report_process *process) {
    struct threads all = {
        .list = must_allocate(2 * (size_t)process->socket_count, sizeof *all.list),
        .have_other_ids = process->is_observed && procfs_namespace((pid_t)process->pid, "pid") !=
                                                      procfs_namespace(getpid(), "pid"),
    };
    for (uint32_t i = 0; i < process->socket_count; i++) {
        const struct ledger_record *record = &process->sockets[i].record;
        if (!is_own(process, record))
            continue;
        if (record->birth_tid)
            all.list[all.count++] =
                (struct thread){record->birth_tid, record->birth_ns, 0, 0, 0, 0};
        if (record->eof_tid)
            all.list[all.count++] = (struct thread){record->eof_tid, record->eof_ns, 0, 0, 0, 0};
    }
    qsort(all.list, all.count, sizeof *all.list, by_tid);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < all.count; i++) {
        if (kept && all.list[kept - 1].tid == all.list[i].tid) {
            if (all.list[i].last_seen_ns > all.list[kept - 1].last_seen_ns)
                all.list[kept - 1].last_seen_ns = all.list[i].last_seen_ns;
        } else {
            all.list[kept++] = all.list[i];
        }
    }
    all.count = kept;
    return all;
}

// `poll` of one descriptor is a wait for that one.
static int32_t only_polled(pid_t pid, uint64_t list, uint64_t count) {
    struct pollfd polled;
    struct iovec here = {&polled, sizeof polled};
    struct iovec there = {(void *)(uintptr_t)list, sizeof polled};
    bool is_read = count == 1 && process_vm_readv(pid, &here, 1, &there, 1, 0) == sizeof polled;
    return is_read ? polled.fd : -1;
}

// The rule of call_fd() in preload/report/interrupted.c, with another process's memory.
static int32_t fd_of_call(pid_t pid, const struct thread_call *call) {
    const uint64_t *arguments = call->arguments;
    switch (call->number) {
    case SYS_accept:
    case SYS_accept4:
    case SYS_recvmmsg:
    case SYS_epoll_pwait:
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
        return (int32_t)arguments[0];
    case SYS_ppoll:
        return arguments[2] == 0 ? only_polled(pid, arguments[0], arguments[1]) : -1;
#ifdef SYS_poll
    case SYS_poll:
        return (int32_t)arguments[2] < 0 ? only_polled(pid, arguments[0], arguments[1]) : -1;
#endif
    case SYS_wait4:
    case SYS_waitid:
        return -1;
    default:
        return cause_is_stuck_call(call->number) ? (int32_t)arguments[0] : -1;
    }
}

static void ask_thread(struct threads *threads, pid_t pid, struct thread *thread) {
    struct thread_call call;
    if (thread->is_asked || threads->have_other_ids || threads->asked >= THREADS_ASKED_MAX)
        return;
    thread->is_asked = true;
    threads->asked++;
    int error = thread_call_read(pid, (pid_t)thread->tid, &call);
    thread->fd = -1;
    thread->call = error == -ESRCH ? THREAD_CALL_GONE : THREAD_CALL_RUNNING;
    thread->is_known = error == 0 || error == -ESRCH; // else no permission
    if (error < 0 || call.number < 0)
        return;
    thread->call = call.number;
    thread->fd = fd_of_call(pid, &call);
}

static struct report_socket *with_fd(const struct report_process *process, int32_t fd) {
    for (uint32_t i = 0; fd >= 0 && i < process->socket_count; i++)
        for (uint32_t k = 0; k < process->sockets[i].fd_count; k++)
            if (process->sockets[i].fds[k] == fd)
                return &process->sockets[i];
    return NULL;
}

static void look_at_properties(pid_t pid, struct report_socket *socket) {
    if (socket->fd_count && socket->record.snapshot.properties_known == 0)
        live_properties(pid, socket->fds[0], socket->record.inode, &socket->record.snapshot);
}

static void look_from_outside(const struct report_process *process, struct report_socket *socket,
                              struct threads *threads) {
    struct ledger_record *record = &socket->record;
    struct ledger_snapshot *snapshot = &record->snapshot;
    pid_t pid = (pid_t)process->pid;
    look_at_properties(pid, socket);
    struct thread wanted = {.tid = record->eof_tid ? record->eof_tid : record->birth_tid};
    struct thread *thread =
        wanted.tid && is_own(process, record)
            ? bsearch(&wanted, threads->list, threads->count, sizeof wanted, by_tid)
            : NULL;
    if (!thread)
        return;
    if (record->eof_ns && thread->last_seen_ns > record->eof_ns)
        snapshot->flags |= SNAPSHOT_READER_SEEN_SINCE;
    ask_thread(threads, pid, thread);
    if (!thread->is_known)
        return;
    snapshot->thread = thread->tid;
    snapshot->thread_call = thread->call;
    snapshot->thread_fd = thread->fd;
    struct report_socket *waited_on = with_fd(process, thread->fd);
    if (!waited_on)
        return;
    snapshot->thread_fd_type = 1;
    snapshot->thread_fd_record = waited_on->number;
    look_at_properties(pid, waited_on);
}

// A process that was killed left its ledger only: its reader opened or read another socket later,
// which is open still, and had the time to close this one before that.
static void look_back(const struct report_process *process, struct report_socket *socket,
                      const struct threads *threads) {
    const struct ledger_record *record = &socket->record;
    struct thread wanted = {.tid = record->eof_tid};
    const struct thread *thread =
        wanted.tid && is_own(process, record)
            ? bsearch(&wanted, threads->list, threads->count, sizeof wanted, by_tid)
            : NULL;
    if (thread && thread->last_seen_ns > record->eof_ns + process->grace_ms * UINT64_C(1000000))
        socket->record.snapshot.flags |= SNAPSHOT_READER_SEEN_SINCE;
}

// --- causes -------------------------------------------------------------------------------------

static int by_number(const void *a, const void *b) {
    const struct report_socket *one = *(struct report_socket *const *)a;
    const struct report_socket *other = *(struct report_socket *const *)b;
    return one->number < other->number ? -1 : one->number > other->number;
}

struct numbered {
    struct report_socket **sockets;
    uint32_t count;
};

static struct numbered number_sockets(const struct report_process *process) {
    struct numbered all = {must_allocate(process->socket_count, sizeof(void *)),
                           process->socket_count};
    for (uint32_t i = 0; i < all.count; i++)
        all.sockets[i] = &process->sockets[i];
    qsort(all.sockets, all.count, sizeof *all.sockets, by_number);
    return all;
}

static const struct ledger_record *waited_on(const struct report_socket *socket,
                                             const struct numbered *all) {
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    struct report_socket wanted = {.number = snapshot->thread_fd_record}, *key = &wanted;
    if (snapshot->thread_fd_type != 1 || wanted.number == 0)
        return NULL;
    struct report_socket **found =
        bsearch(&key, all->sockets, all->count, sizeof *all->sockets, by_number);
    return found ? &(*found)->record : NULL;
}

// The counters as report/cause.h wants them.
static void counters_of(const struct report_site *site, struct ledger_stack *out) {
    *out = (struct ledger_stack){
        .opened = site->opened,
        .closed = site->closed,
        .closed_passive = site->passive,
        .closed_active = site->active,
        .closed_reset = site->reset,
        .closed_connecting = site->connecting,
        .closed_shared = site->shared,
        .gave_up = site->gave_up,
        .gave_up_ms = site->gave_up_ms,
    };
}

static struct cause_facts facts_of(const struct report_socket *socket, const struct numbered *all,
                                   struct ledger_stack *counters) {
    const struct report_process *process = socket->process;
    const struct report_site *site = socket->birth ? socket->birth->site : NULL;
    if (site)
        counters_of(site, counters);
    return (struct cause_facts){
        .process = process->process,
        .grace_ms = process->has_snapshot ? process->exit_grace_ms : process->grace_ms,
        .waited_on = waited_on(socket, all),
        .site = site ? counters : NULL,
        .closed_by_children = socket->birth ? socket->birth->closed_by_children : 0,
        .is_left_by_exec = socket->is_left_by_exec,
    };
}

static void find_in(struct report_process *process) {
    struct numbered all = number_sockets(process);
    struct threads threads = list_threads(process);
    for (uint32_t i = 0; i < process->socket_count; i++) {
        struct report_socket *socket = &process->sockets[i];
        struct ledger_snapshot *snapshot = &socket->record.snapshot;
        if (verdict_is_leak((enum verdict)snapshot->verdict) && process->is_observed) {
            look_from_outside(process, socket, &threads);
            judge_property_hints(socket);
        } else if (!(snapshot->flags & SNAPSHOT_TAKEN)) {
            look_back(process, socket, &threads);
        }
        struct ledger_stack counters;
        struct cause_facts facts = facts_of(socket, &all, &counters);
        enum ledger_cause cause = cause_of(&socket->record, &facts);
        if (cause != CAUSE_UNKNOWN || process->is_observed)
            snapshot->cause = (uint8_t)cause;
    }
    free(threads.list);
    free(all.sockets);
}

void causes_find(struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++)
        if (!report->processes[i]->is_judged)
            find_in(report->processes[i]);
}

// --- sentences ----------------------------------------------------------------------------------

// The cause of most sockets of the finding; of those, the first is the example.
static const struct report_socket *example_of(const struct report_finding *finding) {
    uint32_t counts[CAUSE_COUNT] = {0};
    const struct report_socket *first[CAUSE_COUNT] = {NULL};
    for (uint32_t i = 0; i < finding->socket_count; i++) {
        const struct report_socket *socket = finding->sockets[i];
        uint8_t cause = socket->record.snapshot.cause;
        if (cause == CAUSE_UNKNOWN || cause >= CAUSE_COUNT)
            continue;
        if (counts[cause]++ == 0)
            first[cause] = socket;
    }
    const struct report_socket *example = NULL;
    uint32_t most = 0;
    for (int cause = 0; cause < CAUSE_COUNT; cause++)
        if (counts[cause] > most) {
            most = counts[cause];
            example = first[cause];
        }
    return example;
}

static void explain(struct report *report, struct report_finding *finding,
                    const struct numbered *all) {
    const struct report_socket *socket = example_of(finding);
    if (!socket)
        return;
    finding->cause = (enum ledger_cause)socket->record.snapshot.cause;
    if (finding->process->is_judged) {
        finding->cause_text = socket->cause_text;
        return;
    }
    char memory[TEXT_BYTES];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    struct ledger_stack counters;
    struct cause_facts facts = facts_of(socket, all, &counters);
    cause_sentence(&text, finding->cause, &socket->record, &facts);
    finding->cause_text = text.len_bytes ? arena_name(&report->arena, memory) : NULL;
}

void causes_explain(struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++) {
        struct report_process *process = report->processes[i];
        struct numbered all = number_sockets(process);
        for (uint32_t k = 0; k < process->finding_count; k++)
            explain(report, &process->findings[k], &all);
        free(all.sockets);
    }
}
