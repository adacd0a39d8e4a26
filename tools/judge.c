#include "judge.h"
#include "base/clock.h"
#include "gather.h"
#include "procfs.h"
#include "sites.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    ANCESTORS_MAX = 64
};

// --- order --------------------------------------------------------------------------------------

static int by_start(const void *a, const void *b) {
    const struct report_process *one = *(struct report_process *const *)a;
    const struct report_process *other = *(struct report_process *const *)b;
    if (!one->unwatched != !other->unwatched)
        return one->unwatched ? 1 : -1;
    if (one->created_ns != other->created_ns)
        return one->created_ns < other->created_ns ? -1 : 1;
    return one->pid < other->pid ? -1 : one->pid > other->pid;
}

static bool is_watched(const struct report_process *process) {
    return !process->is_judged && !process->unwatched;
}

static bool same_process(const struct report_process *a, const struct report_process *b) {
    return a->pid == b->pid && a->start_time_ticks == b->start_time_ticks &&
           strcmp(a->boot_id, b->boot_id) == 0;
}

// --- exec ---------------------------------------------------------------------------------------

// A later image's report did not know that end of stream had been read. Whoever read it went on, to
// exec, without closing: that is due at once.
static void judge_told(struct ledger_record *record) {
    struct ledger_snapshot *snapshot = &record->snapshot;
    bool is_others = snapshot->flags & (SNAPSHOT_HELD_BY_PARENT | SNAPSHOT_STANDARD_STREAM);
    if ((snapshot->flags & SNAPSHOT_TAKEN) && snapshot->state == STATE_CLOSE_WAIT && !is_others)
        snapshot->verdict = VERDICT_EOF_IGNORED;
}

// Gives a socket that a later image found open the origin that the earlier one knows.
static void inherit(struct report_socket *socket, const struct report_socket *earlier) {
    struct ledger_record *record = &socket->record;
    const struct ledger_record *from = &earlier->record;
    if (record->birth_call == CALL_UNKNOWN && from->birth_call != CALL_UNKNOWN) {
        record->birth_call = from->birth_call;
        record->birth_ns = from->birth_ns;
        record->birth_tid = from->birth_tid;
        record->provenance = from->provenance;
        socket->birth = earlier->birth;
    }
    if (!record->eof_ns && from->eof_ns) {
        record->eof_ns = from->eof_ns;
        record->eof_call = from->eof_call;
        record->eof_tid = from->eof_tid;
        socket->end_of_stream = earlier->end_of_stream;
        judge_told(record);
    }
    if (!record->family)
        record->family = from->family;
    if (!record->type)
        record->type = from->type;
    if (!record->peer.family)
        record->peer = from->peer;
    record->flags |= from->flags;
    socket->hints |= HINT_INHERITED;
    socket->is_left_by_exec = true;
}

static int by_inode(const void *a, const void *b) {
    const struct report_socket *one = *(struct report_socket *const *)a;
    const struct report_socket *other = *(struct report_socket *const *)b;
    return one->record.inode < other->record.inode ? -1 : one->record.inode > other->record.inode;
}

static struct report_socket **sorted_by_inode(const struct report_process *process) {
    struct report_socket **sorted = calloc(process->socket_count + 1u, sizeof *sorted);
    for (uint32_t i = 0; sorted && i < process->socket_count; i++)
        sorted[i] = &process->sockets[i];
    if (sorted)
        qsort(sorted, process->socket_count, sizeof *sorted, by_inode);
    return sorted;
}

static struct report_socket *find_inode(struct report_socket **sorted, uint32_t count,
                                        uint64_t inode) {
    if (inode == 0) // not known
        return NULL;
    struct report_socket wanted = {.record.inode = inode}, *key = &wanted;
    struct report_socket **found = bsearch(&key, sorted, count, sizeof *sorted, by_inode);
    return found ? *found : NULL;
}

// `later` is the next image of `earlier`. Whatever is still open of the earlier one's sockets is
// the later one's now; those without CLOEXEC that it never touched, and that no look at the kernel
// found, cannot be told from those with it, which exec closed: they are left out, and said.
static void join(struct report *report, struct report_process *earlier,
                 struct report_process *later) {
    struct report_socket **sorted = sorted_by_inode(earlier);
    uint32_t joined = 0;
    for (uint32_t i = 0; sorted && i < later->socket_count; i++) {
        struct report_socket *from =
            find_inode(sorted, earlier->socket_count, later->sockets[i].record.inode);
        if (!from)
            continue;
        inherit(&later->sockets[i], from);
        joined++;
    }
    free(sorted);
    bool is_known = later->has_snapshot || later->is_observed;
    if (joined < earlier->socket_count && !is_known)
        report_process_note(report, later,
                            "ended without a report: which sockets exec left to it, and were still "
                            "open, is not known");
    earlier->ended = REPORT_EXEC;
    earlier->socket_count = 0;
}

static void join_images(struct report *report) {
    for (uint32_t i = 0; i + 1 < report->process_count; i++) {
        struct report_process *earlier = report->processes[i];
        if (!is_watched(earlier) || earlier->ended != REPORT_RUNNING)
            continue;
        for (uint32_t j = i + 1; j < report->process_count; j++) {
            struct report_process *later = report->processes[j];
            if (!is_watched(later) || !same_process(earlier, later))
                continue;
            join(report, earlier, later);
            break;
        }
    }
}

// --- those without a last report ----------------------------------------------------------------

// A ledger whose process has not ended by itself: still running, or killed.
static void find_end(struct report *report, struct report_process *process) {
    if (process->ended != REPORT_RUNNING || process->is_observed)
        return;
    if (process->has_execed) { // and the next image left no ledger
        process->ended = REPORT_EXEC;
        return;
    }
    const char *boot_id = gather_boot_id(report);
    bool same_boot = boot_id[0] && strcmp(boot_id, process->boot_id) == 0;
    if (same_boot && procfs_runs((pid_t)process->pid, process->start_time_ticks)) {
        process->now_ns = clock_now_ns();
        return;
    }
    process->ended = REPORT_KILLED;
    process->now_ns = process->gone_ns;
}

static struct verdict_rules rules_of(const struct report_process *process,
                                     const struct report_options *options) {
    return (struct verdict_rules){
        .inet_sockets = !process->has_rules || process->inet_sockets,
        .unix_sockets = process->has_rules ? process->unix_sockets : options->unix_sockets,
        .grace_ms = process->has_rules ? process->grace_ms : options->grace_ms,
    };
}

// The library asked for FD_CLOEXEC before the exec (track/programs.c).
static bool is_closed_by_exec(const struct report_socket *socket) {
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    return socket->process->has_execed && (snapshot->properties_known & PROPERTY_NO_CLOEXEC) &&
           !(snapshot->properties & PROPERTY_NO_CLOEXEC);
}

static enum verdict last_known(struct report_socket *socket, const struct report_options *options) {
    struct ledger_record *record = &socket->record;
    struct ledger_snapshot *snapshot = &record->snapshot;
    struct report_process *process = socket->process;
    if (is_closed_by_exec(socket))
        return VERDICT_NOT_JUDGED;
    socket->hints |= HINT_LAST_KNOWN;
    // A live report found it leaked, and it was not closed since: CLOSE_WAIT has no way back.
    bool was_leaked = (snapshot->flags & SNAPSHOT_TAKEN) &&
                      verdict_is_leak((enum verdict)snapshot->verdict) &&
                      record->error_ns <= snapshot->taken_ns;
    if (was_leaked)
        return record->eof_ns && snapshot->state == STATE_CLOSE_WAIT
                   ? VERDICT_EOF_IGNORED
                   : (enum verdict)snapshot->verdict;
    *snapshot = (struct ledger_snapshot){0};
    struct verdict_rules rules = rules_of(process, options);
    enum verdict verdict = verdict_of(record, &rules);
    if (!verdict_is_leak(verdict))
        return verdict;
    // The fork that made this process left it a copy; it is for its parent to close.
    if (verdict_is_inherited(record, process->process))
        return VERDICT_OPEN;
    // What was killed gets no grace: it will not close any more.
    uint64_t told_ns = record->error_ns > record->eof_ns ? record->error_ns : record->eof_ns;
    bool is_due = process->ended == REPORT_KILLED || process->now_ns == 0 ||
                  told_ns > process->now_ns ||
                  process->now_ns - told_ns >= (uint64_t)rules.grace_ms * 1000000;
    return is_due ? verdict : VERDICT_OPEN;
}

static enum verdict judge_socket(struct report_socket *socket,
                                 const struct report_options *options) {
    struct report_process *process = socket->process;
    struct ledger_record *record = &socket->record;
    if (process->is_observed) {
        struct verdict_rules rules = rules_of(process, options);
        enum verdict verdict = verdict_of(record, &rules);
        // No library saw the read, or not of this socket: it saw no birth, either. (A read that got
        // the last data may have taken the FIN along: then the program was not told, but has read
        // all there is.)
        bool is_unseen = process->unwatched || record->birth_call == CALL_UNKNOWN;
        bool is_read = is_unseen && socket->is_fin_consumed;
        return verdict == VERDICT_FIN_UNREAD && is_read ? VERDICT_EOF_IGNORED : verdict;
    }
    if (!process->has_snapshot)
        return last_known(socket, options);
    if (record->snapshot.flags & SNAPSHOT_TAKEN)
        return (enum verdict)record->snapshot.verdict;
    // Opened by another thread after the last look: there was no time to leak it.
    socket->hints |= HINT_LAST_KNOWN;
    return record->type == SOCK_STREAM && record->family != AF_UNIX ? VERDICT_OPEN
                                                                    : VERDICT_NOT_JUDGED;
}

void judge_property_hints(struct report_socket *socket) {
    static const struct {
        uint16_t property;
        uint32_t hint;
    } names[] = {{PROPERTY_NO_READ_TIMEOUT, HINT_NO_READ_TIMEOUT},
                 {PROPERTY_NO_KEEPALIVE, HINT_NO_KEEPALIVE},
                 {PROPERTY_NO_CLOEXEC, HINT_NO_CLOEXEC},
                 {PROPERTY_BLOCKING_MODE, HINT_BLOCKING_MODE},
                 {PROPERTY_UNREAD_DATA, HINT_UNREAD_DATA}};
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (snapshot->properties_known & snapshot->properties & names[i].property)
            socket->hints |= names[i].hint;
}

static void set_hints(struct report_socket *socket) {
    uint16_t flags = socket->record.snapshot.flags;
    if (verdict_is_inherited(&socket->record, socket->process->process) &&
        !socket->process->is_judged)
        socket->hints |= HINT_INHERITED;
    if (flags & SNAPSHOT_HELD_BY_PARENT)
        socket->hints |= HINT_HELD_BY_PARENT;
    if (flags & SNAPSHOT_READER_WENT_ON)
        socket->hints |= HINT_READER_GONE;
    if (socket->fd_count > 1)
        socket->hints |= HINT_DUPLICATED;
    judge_property_hints(socket);
}

static void judge_process(struct report_process *process, const struct report_options *options) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < process->socket_count; i++) {
        struct report_socket *socket = &process->sockets[i];
        enum verdict verdict = judge_socket(socket, options);
        if (verdict_group(verdict) == GROUP_NONE) {
            sites_count_unjudged(socket);
            continue;
        }
        socket->record.snapshot.verdict = (uint8_t)verdict;
        set_hints(socket);
        process->sockets[kept++] = *socket;
    }
    process->socket_count = kept;
}

// --- one socket, several processes --------------------------------------------------------------

static const struct report_process *parent_of(const struct report *report,
                                              const struct report_process *child) {
    for (uint32_t i = report->process_count; i-- > 0;) {
        const struct report_process *process = report->processes[i];
        if (process->pid == child->first_parent_pid && process != child && is_watched(process) &&
            process->created_ns <= child->created_ns &&
            strcmp(process->boot_id, child->boot_id) == 0)
            return process;
    }
    return NULL;
}

static void leave_to(const struct report_process *ancestor, struct report_process *child) {
    struct report_socket **sorted = sorted_by_inode(ancestor);
    for (uint32_t i = 0; sorted && i < child->socket_count; i++) {
        struct ledger_record *record = &child->sockets[i].record;
        const struct report_socket *theirs =
            verdict_is_inherited(record, child->process)
                ? find_inode(sorted, ancestor->socket_count, record->inode)
                : NULL;
        if (!theirs || !verdict_is_leak((enum verdict)theirs->record.snapshot.verdict))
            continue;
        record->snapshot.verdict = VERDICT_OPEN;
        record->snapshot.flags |= SNAPSHOT_HELD_BY_PARENT;
        child->sockets[i].hints |= HINT_HELD_BY_PARENT;
    }
    free(sorted);
}

// A fork's copy of a socket that its parent leaks, too, or a parent of that one (a daemon forks
// twice), is theirs to tell: one socket, one missing close. The library sees to it while the parent
// lives; this is for when it does not.
static void leave_to_parents(const struct report *report, struct report_process *child) {
    const struct report_process *ancestor = child;
    for (uint32_t depth = 0; child->socket_count && depth < ANCESTORS_MAX; depth++) {
        ancestor = parent_of(report, ancestor);
        if (!ancestor || ancestor == child)
            break;
        leave_to(ancestor, child);
    }
}

// Of a live process that the kernel told nothing of: see ask_inodes() in observe.c.
static void forget_unasked(struct report_process *process) {
    for (uint32_t i = 0; i < process->socket_count; i++)
        if (process->sockets[i].record.inode == LEDGER_INODE_UNASKED)
            process->sockets[i].record.inode = 0;
}

void judge_report(struct report *report, const struct report_options *options) {
    for (uint32_t i = 0; i < report->process_count; i++)
        forget_unasked(report->processes[i]);
    if (report->process_count)
        qsort(report->processes, report->process_count, sizeof(struct report_process *), by_start);
    join_images(report);
    for (uint32_t i = 0; i < report->process_count; i++)
        if (is_watched(report->processes[i]))
            find_end(report, report->processes[i]);
    for (uint32_t i = 0; i < report->process_count; i++)
        if (!report->processes[i]->is_judged)
            judge_process(report->processes[i], options);
    for (uint32_t i = 0; i < report->process_count; i++)
        if (is_watched(report->processes[i]))
            leave_to_parents(report, report->processes[i]);
}
