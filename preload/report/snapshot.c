#include "report/snapshot.h"
#include "base/apart.h"
#include "base/clock.h"
#include "base/format.h"
#include "base/process.h"
#include "base/sys.h"
#include "report/facts.h"
#include "track/unasked.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

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

struct listing {
    struct snapshot *out;
    struct scratch *scratch;
    char *buffer; // of DIRENTS_BYTES
    uint32_t tid; // whose descriptors
    int error;
};

// The inode of a socket; 0 for anything else.
static uint64_t socket_inode(struct snapshot *out, int fd) {
    struct stat status;
    int error = sys_fstat(fd, &status);
    if (error < 0 && error != -EBADF) // no memory in the kernel: it may have been a socket
        out->incomplete = true;
    return error == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

// The list grows in place: nothing else is taken from the scratch while it does.
static bool list(struct listing *listing, int fd, uint64_t inode) {
    struct snapshot *out = listing->out;
    struct snapshot_fd *entry = scratch_take(listing->scratch, sizeof *entry);
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

// Calls `each` for every number in a directory such as /proc/self/fd; in one of our own, also for
// the one that it has open itself.
static int each_fd_in(const char *directory, char *buffer, each_fd_function *each, void *context) {
    int dir = sys_openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return dir;
    long len = 0;
    bool more = true;
    while (more &&
           (len = sys_call(SYS_getdents64, dir, (long)buffer, DIRENTS_BYTES, 0, 0, 0)) > 0) {
        for (long at = 0; more && at < len;) {
            const struct linux_dirent64 *entry = (const void *)(buffer + at);
            uint64_t fd;
            if (text_parse(entry->d_name, entry->d_name + strlen(entry->d_name), INT32_MAX, &fd))
                more = each(context, (int)fd);
            at += entry->d_reclen;
        }
    }
    sys_close(dir);
    return len < 0 ? (int)len : 0;
}

static bool list_each(void *listing, int fd) {
    return list(listing, fd, 0);
}

// Not /proc/self/fd: that is the main thread, which may have ended before the others, and then has
// no descriptors (an empty directory, no error). Apart it is another thread that looks.
static void list_fds(void *context) {
    struct listing *listing = context;
    char path[64];
    struct text_buffer name = text_buffer(path, sizeof path);
    if ((uint32_t)sys_gettid() == listing->tid) {
        text_string(&name, "/proc/thread-self");
    } else {
        text_string(&name, "/proc/self/task/");
        text_decimal(&name, listing->tid);
    }
    text_string(&name, "/fd");
    listing->error = each_fd_in(path, listing->buffer, list_each, listing);
}

// Behind list_fds(), and not within: apart, these numbers are other files.
static void keep_sockets(struct snapshot *out) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < out->fd_count; i++) {
        int fd = out->fds[i].fd;
        uint64_t inode = socket_inode(out, fd);
        if (inode)
            out->fds[kept++] = (struct snapshot_fd){.inode = inode, .fd = fd};
    }
    out->fd_count = kept;
}

// Without /proc every number that may be an fd is asked.
static void try_all_fds(struct listing *listing) {
    struct rlimit limit = {.rlim_cur = FD_MAX};
    sys_call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0);
    int last = limit.rlim_cur < FD_MAX ? (int)limit.rlim_cur : FD_MAX;
    if (last < ledger_fd_limit())
        last = ledger_fd_limit();
    for (int fd = 0; fd < last; fd++) {
        uint64_t inode = socket_inode(listing->out, fd);
        if (inode && !list(listing, fd, inode))
            return;
    }
}

static void find_sockets(struct snapshot *out, struct scratch *scratch, char *buffer) {
    struct listing listing = {out, scratch, buffer, (uint32_t)sys_gettid(), 0};
    int problem = apart_run(list_fds, &listing);
    if (listing.error < 0) {
        out->no_descriptor = problem;
        out->proc_missing = problem == 0;
        out->fd_count = 0; // of a part that was read
        try_all_fds(&listing);
    } else {
        keep_sockets(out);
    }
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

// Takes a record off the table whose fd has become another file, behind our back; but not another
// one that a birth has entered meanwhile.
static void drop_stale(int fd, uint32_t number) {
    if (ledger_fd_replace(fd, number, 0))
        ledger_release_vanished(number);
}

static uint32_t make_found_record(const struct snapshot_fd *entry) {
    uint32_t number = ledger_record_new();
    if (number == 0)
        return 0;
    struct ledger_record *record = ledger_record(number);
    ledger_set_inode(record, entry->inode);
    record->birth_ns = 0; // not known, and not invented
    record->provenance = PROVENANCE_FOUND;
    ledger_count(&ledger.header->counters.found);
    if (ledger_hold(number) && !ledger_fd_restore(entry->fd, number))
        ledger_release(number);
    return number;
}

static bool is_created(const struct ledger_record *record) {
    return record->provenance == PROVENANCE_CREATED;
}

// Two births cannot be of one socket. Where both records have its inode, one of them was in the
// place of `entry`'s until a dup2 behind our back, before it was asked. One of the first `settled`
// sockets was asked earlier, and is right.
static bool is_of_another(uint32_t number, const struct snapshot *out,
                          const struct snapshot_fd *entry, const struct inode_index *index,
                          uint32_t settled) {
    uint32_t first = *index_slot(index, entry->inode);
    if (first == 0 || first == number || !is_created(ledger_record(first)) ||
        !is_created(ledger_record(number)))
        return false;
    for (uint32_t i = 0; i < settled; i++)
        if (out->sockets[i] == first)
            return true;
    return false;
}

// The record of a socket, held: the one in the fd table, or the one that another fd of the same
// socket has, or a new one.
static uint32_t record_for(const struct snapshot *out, const struct snapshot_fd *entry,
                           const struct inode_index *index, uint32_t settled) {
    uint32_t number = ledger_fd_hold(entry->fd);
    if (number && unasked_inode(number, entry->fd) == entry->inode &&
        !is_of_another(number, out, entry, index, settled))
        return number;
    if (number) {
        drop_stale(entry->fd, number);
        ledger_release_vanished(number); // the look: often the last that held it
    }
    number = *index_slot(index, entry->inode);
    if (number && ledger_hold(number)) {
        if (ledger_hold(number) && !ledger_fd_restore(entry->fd, number))
            ledger_release(number);
        return number;
    }
    return make_found_record(entry);
}

// What the program was told through another fd of the same socket.
static void merge_told(struct ledger_record *into, const struct ledger_record *from) {
    if (into->eof_ns == 0 && from->eof_ns) {
        into->eof_ns = from->eof_ns;
        into->fin_ns = from->fin_ns;
        into->eof_stack = from->eof_stack;
        into->eof_tid = from->eof_tid;
        into->eof_call = from->eof_call;
    }
    if (into->error == 0 && from->error) {
        into->error_ns = from->error_ns;
        into->error_stack = from->error_stack;
        into->error_call = from->error_call;
        into->error = from->error;
    }
    if (into->shutdown_ns == 0 && from->shutdown_ns) {
        into->shutdown_ns = from->shutdown_ns;
        into->shutdown_stack = from->shutdown_stack;
    }
    // Not that a thread is at it: what it writes down goes into `from`, and `into` would never be
    // told.
    unsigned not_told = RECORD_TELLING_EOF | RECORD_TELLING_ERROR;
    if (from->flags & RECORD_FIN_ASSUMED)
        not_told |= RECORD_FIN_FIRST | RECORD_FIN_SECOND | RECORD_FIN_ASSUMED;
    __atomic_fetch_or(&into->flags, (uint16_t)(from->flags & ~not_told), __ATOMIC_RELAXED);
}

// A socket that was sent to ourselves (SCM_RIGHTS) has two births and two records: the first one
// seen stands for both.
static void unite(struct snapshot_fd *entry, const struct inode_index *index) {
    uint32_t first = *index_slot(index, entry->inode);
    if (first == 0 || first == entry->record || !ledger_hold(first))
        return;
    merge_told(ledger_record(first), ledger_record(entry->record));
    ledger_release(entry->record);
    entry->record = first;
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

// Known ones first: an fd seen by a socket's record helps its other fds. Then those that are asked
// only now. Then the rest, which has by now also given a birth that was under way in another thread
// the time to be entered.
enum pass {
    PASS_SETTLED,
    PASS_UNASKED,
    PASS_OTHERS,
    PASSES
};

static bool is_its_turn(const struct snapshot_fd *entry, enum pass pass) {
    uint32_t number = ledger_fd(entry->fd);
    if (entry->record || (number == 0 && pass != PASS_OTHERS))
        return false;
    if (pass == PASS_SETTLED)
        return ledger_inode(ledger_record(number)) == entry->inode;
    return pass == PASS_OTHERS || unasked_inode(number, entry->fd) == entry->inode;
}

static int explain(struct snapshot *out, struct scratch *scratch) {
    struct inode_index index;
    uint32_t settled = 0;
    out->sockets = scratch_take(scratch, (size_t)out->fd_count * sizeof *out->sockets);
    if (!out->sockets || !index_open(&index, scratch, out->fd_count))
        return -ENOMEM;
    for (enum pass pass = PASS_SETTLED; pass < PASSES; pass++) {
        settled = pass == PASS_UNASKED ? out->socket_count : settled;
        for (uint32_t i = 0; i < out->fd_count; i++) {
            struct snapshot_fd *entry = &out->fds[i];
            if (!is_its_turn(entry, pass))
                continue;
            entry->record = record_for(out, entry, &index, settled);
            if (entry->record) {
                unite(entry, &index);
                add_socket(out, &index, entry);
            } else {
                out->unrecorded++;
            }
        }
    }
    return 0;
}

// Where the kernel has no memory to answer, nothing says that it has.
static bool has_vanished(int fd, uint64_t inode) {
    struct stat status;
    int error = sys_fstat(fd, &status);
    return error < 0 ? error == -EBADF : !S_ISSOCK(status.st_mode) || status.st_ino != inode;
}

// Records whose fd is no socket, or closed, without a close that we saw.
static void drop_vanished(void) {
    int limit = ledger_fd_limit();
    for (int fd = 0; fd < limit; fd++) {
        uint32_t number = ledger_fd(fd);
        uint64_t inode = number ? unasked_inode(number, fd) : LEDGER_INODE_UNASKED;
        if (inode != LEDGER_INODE_UNASKED && has_vanished(fd, inode) && ledger_fd(fd) == number)
            drop_stale(fd, number);
    }
}

struct reader {
    uint32_t tid;
    bool went_on;
};

// Has the thread that read an end of stream gone on without closing? One thread reads most of them.
// A signal may have struck between the read and the close that was to follow: the thread that it
// interrupted has not gone on.
static bool went_on(struct reader *last, uint32_t tid, enum ledger_ended ended) {
    if (tid == 0)
        return false;
    if (tid != last->tid) {
        bool by_itself = ended != ENDED_RUNNING && ended != ENDED_SIGNAL;
        bool ends_us = tid == (uint32_t)sys_gettid();
        *last = (struct reader){tid, ends_us ? by_itself : !process_thread_runs(tid)};
    }
    return last->went_on;
}

// What the kernel tells of a socket, and then what the end of this process and its threads do. True
// where the kernel did not answer.
static bool look_at(struct ledger_record *record, struct reader *last, enum ledger_ended ended) {
    unasked_eof(record, record->first_fd);
    facts_look_at(record);
    if (went_on(last, record->eof_tid, ended))
        record->snapshot.flags |= SNAPSHOT_READER_WENT_ON;
    return facts_are_missing(record);
}

// --- whose affair it is -------------------------------------------------------------------------

static bool may_be_the_parents(const struct ledger_record *record) {
    return record->type == SOCK_STREAM &&
           (record->snapshot.state == STATE_CLOSE_WAIT || record->snapshot.state == STATE_CLOSE) &&
           (record->process != ledger.header->process || record->provenance == PROVENANCE_FOUND);
}

static pid_t ending_parent; // 0: none that is known to end

void snapshot_parent_ends(pid_t pid) {
    __atomic_store_n(&ending_parent, pid, __ATOMIC_RELAXED);
}

struct parent {
    const struct snapshot *snapshot;
    char *buffer; // of DIRENTS_BYTES
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

static void compare_parents_fds(void *context) {
    struct parent *parent = context;
    each_fd_in(parent->directory, parent->buffer, compare_parents_fd, parent);
}

// A socket that a fork or exec left to us and that the process we came from still has open is that
// process's to close. Where its fds cannot be read (it is gone, or another user's), or it is about
// to end, it is ours.
static void ask_parent(struct snapshot *snapshot, struct scratch *scratch) {
    pid_t pid = sys_getppid();
    if (pid == __atomic_load_n(&ending_parent, __ATOMIC_RELAXED))
        return;
    bool needed = false;
    for (uint32_t i = 0; i < snapshot->socket_count && !needed; i++)
        needed = may_be_the_parents(ledger_record(snapshot->sockets[i]));
    char *buffer = needed ? scratch_take(scratch, DIRENTS_BYTES) : NULL;
    if (!buffer)
        return;
    struct parent parent = {.snapshot = snapshot, .buffer = buffer};
    struct text_buffer name = text_buffer(parent.directory, sizeof parent.directory);
    text_string(&name, "/proc/");
    text_decimal(&name, (uint64_t)pid);
    text_string(&name, "/fd");
    apart_run(compare_parents_fds, &parent);
}

// A socket that is nothing but stdin, stdout or stderr was given to us by whoever started us.
static void look_for_standard_streams(struct snapshot *snapshot) {
    for (uint32_t i = 0; i < snapshot->socket_count; i++) {
        struct ledger_record *record = ledger_record(snapshot->sockets[i]);
        bool standard = record->provenance == PROVENANCE_FOUND && record->first_fd <= 2;
        for (uint32_t k = 0; standard && k < snapshot->fd_count; k++)
            standard = snapshot->fds[k].fd <= 2 || snapshot->fds[k].record != snapshot->sockets[i];
        if (standard)
            record->snapshot.flags |= SNAPSHOT_STANDARD_STREAM;
    }
}

// --- all together -------------------------------------------------------------------------------

int snapshot_take(struct snapshot *out, struct scratch *scratch, enum ledger_ended ended) {
    memset(out, 0, sizeof *out);
    char *buffer = scratch_take(scratch, DIRENTS_BYTES);
    if (!buffer)
        return -ENOMEM;
    find_sockets(out, scratch, buffer);
    int error = explain(out, scratch);
    if (error < 0)
        return error;
    drop_vanished();
    struct reader last = {0};
    for (uint32_t i = 0; i < out->socket_count; i++)
        out->unanswered += look_at(ledger_record(out->sockets[i]), &last, ended);
    look_for_standard_streams(out);
    ask_parent(out, scratch);
    __atomic_store_n(&ledger.header->snapshot_ns, clock_now_ns(), __ATOMIC_RELEASE);
    return 0;
}

void snapshot_release(struct snapshot *snapshot) {
    for (uint32_t i = 0; i < snapshot->fd_count; i++)
        if (snapshot->fds[i].record)
            ledger_release(snapshot->fds[i].record);
}
