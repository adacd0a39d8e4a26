// The comparison. What is open is asked of /proc, what state it is in of the socket itself, before
// and after the report: what changed in between is not compared. What the report says is read from
// the ledger's records.
#include "base/sys.h"
#include "judge.h"
#include "ledger_view.h"
#include "report/verdict.h"
#include "stress.h"
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DIRENTS_BYTES = 32768,
    SOCKETS_MAX = MODEL_FDS,
};

struct open_socket {
    uint64_t inode;
    int first_fd, fd_count;
    struct look before, after;
};

struct table {
    struct open_socket sockets[SOCKETS_MAX];
    int count;
};

struct linux_dirent64 { // getdents64(2)
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

// Static and not on the stack: one check at a time in a process.
static struct table table, parents_before, parents_after;
static char dirents[DIRENTS_BYTES];

// --- the kernel's table -------------------------------------------------------------------------

static void add_fd(struct table *out, int fd, uint64_t inode) {
    struct open_socket *found = NULL;
    for (int i = 0; i < out->count && !found; i++)
        if (out->sockets[i].inode == inode)
            found = &out->sockets[i];
    if (!found && out->count < SOCKETS_MAX) {
        found = &out->sockets[out->count++];
        *found = (struct open_socket){.inode = inode, .first_fd = fd};
    }
    if (!found)
        return;
    found->fd_count++;
    if (fd < found->first_fd)
        found->first_fd = fd;
}

static void read_table(struct table *out, const char *directory) {
    out->count = 0;
    int dir = sys_openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    long len;
    while (dir >= 0 &&
           (len = sys_call(SYS_getdents64, dir, (long)dirents, DIRENTS_BYTES, 0, 0, 0)) > 0) {
        for (long at = 0; at < len;) {
            const struct linux_dirent64 *entry = (const void *)(dirents + at);
            char link[64] = "";
            at += entry->d_reclen;
            if (sys_readlinkat(dir, entry->d_name, link, sizeof link - 1) > 0 &&
                strncmp(link, "socket:[", 8) == 0)
                add_fd(out, atoi(entry->d_name), strtoull(link + 8, NULL, 10));
        }
    }
    if (dir >= 0)
        sys_close(dir);
}

static bool has(const struct table *of, uint64_t inode) {
    for (int i = 0; i < of->count; i++)
        if (of->sockets[i].inode == inode)
            return true;
    return false;
}

// What the process that we come from has open: a child's only, the others' is the test's own.
static void read_parents(const struct actor *actor, struct table *out) {
    char path[64];
    out->count = 0;
    if (!actor->depth)
        return;
    snprintf(path, sizeof path, "/proc/%d/fd", sys_getppid());
    read_table(out, path);
}

// --- what is said -------------------------------------------------------------------------------

static unsigned said;

static void say(const struct actor *actor, const char *format, ...) {
    char line[512];
    int len = snprintf(line, sizeof line,
                       "stress: disagreement: seed %llu, operation %llu, process %u%s: ",
                       (unsigned long long)settings.seed, (unsigned long long)actor->operation,
                       actor->process, actor->depth ? " (a child of it)" : "");
    va_list arguments;
    va_start(arguments, format);
    len += vsnprintf(line + len, sizeof line - (size_t)len, format, arguments);
    va_end(arguments);
    len = len < (int)sizeof line - 1 ? len : (int)sizeof line - 2;
    line[len++] = '\n';
    sys_write(1, line, (size_t)len);
    said++;
}

static const char *names_of(unsigned bits, const char *(*name)(unsigned), char *out, size_t room) {
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < 32; i++)
        if (bits >> i & 1 && len < room)
            len += (size_t)snprintf(out + len, room - len, "%s%s", len ? " or " : "", name(i));
    return out;
}

static const char *name_of_verdict(unsigned verdict) {
    static const char *const names[VERDICT_COUNT] = {
        [VERDICT_NOT_JUDGED] = "not-judged",
        [VERDICT_EOF_IGNORED] = "eof-ignored",
        [VERDICT_FIN_UNREAD] = "fin-unread",
        [VERDICT_DATA_UNREAD] = "data-unread",
        [VERDICT_RESET_UNCLOSED] = "reset-unclosed",
        [VERDICT_SHUTDOWN_UNCLOSED] = "shutdown-unclosed",
        [VERDICT_FIN_WAIT] = "fin-wait",
        [VERDICT_NEVER_CONNECTED] = "never-connected",
        [VERDICT_OPEN] = "open",
    };
    return verdict < VERDICT_COUNT ? names[verdict] : "?";
}

static const char *name_of_state(unsigned state) {
    static const char *const names[] = {"none",       "ESTABLISHED", "SYN_SENT",  "SYN_RECV",
                                        "FIN_WAIT1",  "FIN_WAIT2",   "TIME_WAIT", "CLOSE",
                                        "CLOSE_WAIT", "LAST_ACK",    "LISTEN",    "CLOSING"};
    return state < sizeof names / sizeof *names ? names[state] : "?";
}

// --- one socket ---------------------------------------------------------------------------------

static void describe(char *out, size_t room, const struct open_socket *open,
                     const struct known *known) {
    snprintf(out, room, "fd %d (%d fds), inode %llu, family %d type %d%s%s%s%s%s%s%s",
             open->first_fd, open->fd_count, (unsigned long long)open->inode, open->after.domain,
             open->after.type, known->connected ? " connected" : "",
             known->shut_rd ? " shut-rd" : "", known->shut_wr ? " shut-wr" : "",
             known->end_of_stream ? " end-of-stream" : "", known->told_error ? " told-error" : "",
             known->is_parents ? " parents" : "", known->told_unclear ? " unclear" : "");
}

static void compare_origin(const struct actor *actor, const struct open_socket *open,
                           const struct known *known, const struct ledger_record *record) {
    if (known->origin_unclear)
        return;
    enum site_id site = site_of_stack(record->birth_stack);
    bool found = known->origin_count == 0 && record->provenance == PROVENANCE_FOUND &&
                 record->birth_call == CALL_UNKNOWN && record->birth_stack == LEDGER_NO_STACK;
    for (int i = 0; i < known->origin_count; i++)
        found = found || (known->origins[i].site == site &&
                          known->origins[i].provenance == record->provenance &&
                          sites[site].call == record->birth_call);
    char text[256];
    describe(text, sizeof text, open, known);
    if (!found)
        say(actor, "%s: opened at %s%s (provenance %u), the report says %s, call %u, provenance %u",
            text, sites[known->origins[0].site].name,
            known->origin_count > 1 ? " and elsewhere" : "", known->origins[0].provenance,
            sites[site].name, record->birth_call, record->provenance);
}

static void compare_end_of_stream(const struct actor *actor, const struct open_socket *open,
                                  const struct known *known, const struct ledger_record *record) {
    if (known->told_unclear || !known->end_of_stream ||
        record->snapshot.verdict != VERDICT_EOF_IGNORED)
        return;
    enum site_id site = site_of_stack(record->eof_stack);
    char text[256];
    describe(text, sizeof text, open, known);
    if (!(known->end_sites >> site & 1) || record->eof_call != sites[site].call)
        say(actor, "%s: end of stream read at %s, the report says %s, call %u", text,
            sites[__builtin_ctzll(known->end_sites | 1ull << 63) % SITE_COUNT].name,
            sites[site].name, record->eof_call);
}

static void compare_socket(struct actor *actor, const struct open_socket *open,
                           const struct ledger_record *record) {
    const struct known *known = model_find(open->inode);
    struct known nothing = {.origin_unclear = true, .told_unclear = true};
    char text[256], want[256];
    if (!known)
        say(actor, "fd %d, inode %llu: the test does not know it", open->first_fd,
            (unsigned long long)open->inode);
    if (!known)
        known = &nothing;
    describe(text, sizeof text, open, known);
    compare_origin(actor, open, known, record);
    if (record->fd_count != open->fd_count || record->first_fd != open->first_fd)
        say(actor, "%s: the report says fd %d, %u fds", text, record->first_fd, record->fd_count);
    if (record->family != open->after.domain || record->type != open->after.type)
        say(actor, "%s: the report says family %u type %u", text, record->family, record->type);
    bool parent_has_it = has(&parents_after, open->inode);
    if (!look_is_same(&open->before, &open->after) ||
        parent_has_it != has(&parents_before, open->inode)) {
        __atomic_fetch_add(&shared->moved, 1, __ATOMIC_RELAXED);
        return;
    }
    if (known->told_unclear || known->origin_unclear)
        __atomic_fetch_add(&shared->unclear, 1, __ATOMIC_RELAXED);
    unsigned states = judge_states(known, &open->after);
    if (known->told_unclear && open->after.domain == AF_UNIX)
        states = ~0u; // its own shutdown, which makes the difference, may have been told elsewhere
    if (!(states >> record->snapshot.state & 1))
        say(actor, "%s: state %s, the report says %s", text,
            names_of(states, name_of_state, want, sizeof want),
            name_of_state(record->snapshot.state));
    unsigned verdicts = judge_verdicts(known, &open->after, parent_has_it);
    if (model.parent_moves) // it may have had it for a moment only, or moved it to another number
        verdicts |= judge_verdicts(known, &open->after, !parent_has_it);
    if (known->told_unclear && open->after.domain == AF_UNIX)
        verdicts = ~0u;
    if (!(verdicts >> record->snapshot.verdict & 1))
        say(actor, "%s: %s, in %u out %u poll %#x: %s, the report says %s", text,
            name_of_state((unsigned)open->after.state), open->after.in, open->after.out,
            (unsigned)open->after.hangup, names_of(verdicts, name_of_verdict, want, sizeof want),
            name_of_verdict(record->snapshot.verdict));
    compare_end_of_stream(actor, open, known, record);
    __atomic_fetch_add(&shared->compared, 1, __ATOMIC_RELAXED);
}

// --- the report ---------------------------------------------------------------------------------

static const void *elements(enum ledger_region_id id) {
    const struct ledger_header *header = view_ledger();
    return (const char *)header + header->regions[id].offset;
}

// Of the records in use, those that a report wrote which began after `since_ns`.
static void compare_records(struct actor *actor, uint64_t since_ns) {
    const struct ledger_header *header = view_ledger();
    const struct ledger_record *records = elements(LEDGER_RECORDS);
    static bool seen[SOCKETS_MAX];
    memset(seen, 0, sizeof seen);
    for (uint64_t i = 1; i < header->regions[LEDGER_RECORDS].used; i++) {
        const struct ledger_record *record = &records[i];
        if (!record->inode || !record->holders || record->snapshot.taken_ns < since_ns)
            continue;
        int at = 0;
        while (at < table.count && table.sockets[at].inode != record->inode)
            at++;
        if (at == table.count)
            say(actor, "inode %llu is in the report, and not open",
                (unsigned long long)record->inode);
        else if (seen[at])
            say(actor, "inode %llu is in the report twice", (unsigned long long)record->inode);
        else
            compare_socket(actor, &table.sockets[at], record);
        if (at < table.count)
            seen[at] = true;
    }
    for (int at = 0; at < table.count; at++)
        if (!seen[at])
            say(actor, "fd %d, inode %llu is open, and not in the report",
                table.sockets[at].first_fd, (unsigned long long)table.sockets[at].inode);
}

// inherited + born + found = closed + closed_unseen + open now, of the records.
static void compare_counters(struct actor *actor) {
    const struct ledger_header *header = view_ledger();
    const struct ledger_counters *c = &header->counters;
    const struct ledger_record *records = elements(LEDGER_RECORDS);
    uint64_t open = 0, fds = 0, references = 0;
    for (uint64_t i = 1; i < header->regions[LEDGER_RECORDS].used; i++) {
        open += records[i].inode && records[i].holders;
        references += records[i].inode ? records[i].holders : 0;
    }
    for (uint64_t fd = 0; fd < header->regions[LEDGER_FDS].used; fd++)
        fds += view_number((int)fd) != 0;
    if (c->inherited + c->born + c->found != c->closed + c->closed_unseen + open)
        say(actor,
            "%llu inherited + %llu born + %llu found is not %llu closed + %llu unseen + %llu "
            "open",
            (unsigned long long)c->inherited, (unsigned long long)c->born,
            (unsigned long long)c->found, (unsigned long long)c->closed,
            (unsigned long long)c->closed_unseen, (unsigned long long)open);
    // What goes past libc is noticed later. Everything else it saw, unless threads were in a race.
    if (model.exact && !model.parent_moves && c->closed_unseen > model.unseen_count)
        say(actor, "%llu were closed unseen, of %u that could not be seen",
            (unsigned long long)c->closed_unseen, model.unseen_count);
    if (fds != references)
        say(actor, "%llu fds have records, which have %llu holders", (unsigned long long)fds,
            (unsigned long long)references);
    if (c->untracked_records || c->untracked_fds || c->stacks_lost || c->snapshots_lost ||
        c->stacks_call_site)
        say(actor,
            "something was lost: records %llu fds %llu stacks %llu snapshots %llu, one frame "
            "%llu",
            (unsigned long long)c->untracked_records, (unsigned long long)c->untracked_fds,
            (unsigned long long)c->stacks_lost, (unsigned long long)c->snapshots_lost,
            (unsigned long long)c->stacks_call_site);
}

// Of each stack: opened - closed is how many of its sockets are open; of those that this process
// opened, where a fork made it.
static void compare_stacks(struct actor *actor) {
    const struct ledger_header *header = view_ledger();
    const struct ledger_record *records = elements(LEDGER_RECORDS);
    static uint32_t open[4096];
    memset(open, 0, sizeof open);
    for (uint64_t i = 1; i < header->regions[LEDGER_RECORDS].used; i++)
        if (records[i].inode && records[i].holders && records[i].birth_stack < 4096 &&
            records[i].birth_ns > model.begun_ns)
            open[records[i].birth_stack]++;
    for (uint64_t id = 1; id < header->regions[LEDGER_STACKS].used && id < 4096; id++) {
        const struct ledger_stack *stack = view_stack((uint32_t)id);
        if (stack->opened - stack->closed != open[id])
            say(actor, "stack %llu: %llu opened, %llu closed, %u open", (unsigned long long)id,
                (unsigned long long)stack->opened, (unsigned long long)stack->closed, open[id]);
    }
}

bool check_all(struct actor *actor) {
    if (!view_ledger())
        return true;
    said = 0;
    read_table(&table, "/proc/thread-self/fd");
    read_parents(actor, &parents_before);
    for (int i = 0; i < table.count; i++)
        table.sockets[i].before = model_look(table.sockets[i].first_fd);
    uint64_t begun_ns = model_now_ns();
    sys_call(SYS_tgkill, sys_getpid(), sys_gettid(), SIGUSR1, 0, 0, 0);
    if (view_ledger()->snapshot_ns < begun_ns)
        say(actor, "no report was made");
    for (int i = 0; i < table.count; i++)
        table.sockets[i].after = model_look(table.sockets[i].first_fd);
    read_parents(actor, &parents_after);
    compare_records(actor, begun_ns);
    compare_counters(actor);
    compare_stacks(actor);
    model_lock();
    model_reported();
    model_unlock();
    __atomic_fetch_add(&shared->checks, 1, __ATOMIC_RELAXED);
    if (said)
        __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
    return said == 0;
}

// INODE STATES VERDICTS ORIGINS END, comma-separated names; - for none, ? for what cannot be known.
void check_write_expectations(const char *path) {
    char verdicts[256], partial[540];
    snprintf(partial, sizeof partial, "%s.part", path);
    FILE *out = fopen(partial, "w");
    if (!out)
        return;
    read_table(&table, "/proc/thread-self/fd");
    for (int i = 0; i < table.count; i++) {
        const struct known *known = model_find(table.sockets[i].inode);
        struct look look = model_look(table.sockets[i].first_fd);
        bool clear = known && !known->told_unclear && !known->origin_unclear;
        if (!clear || look.type != SOCK_STREAM || look.listening)
            continue;
        names_of(judge_verdicts(known, &look, false), name_of_verdict, verdicts, sizeof verdicts);
        fprintf(out, "%llu|%s|%s|%s", (unsigned long long)known->inode,
                look.domain == AF_UNIX ? "" : name_of_state((unsigned)look.state), verdicts,
                known->end_of_stream
                    ? sites[__builtin_ctzll(known->end_sites | 1ull << 63) % SITE_COUNT].name
                    : "");
        for (int k = 0; k < known->origin_count; k++)
            fprintf(out, "|%s", sites[known->origins[k].site].name);
        fprintf(out, "\n");
    }
    fclose(out);
    rename(partial, path);
}
