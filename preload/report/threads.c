#include "report/threads.h"
#include "base/apart.h"
#include "base/format.h"
#include "base/process.h"
#include "base/sys.h"
#include "report/interrupted.h"
#include "report/verdict.h"
#include <string.h>

enum {
    TABLE_MIN = 16,
    TABLE_MAX = 1 << 15
};

struct thread {
    uint64_t last_seen_ns; // opened a socket, or read end of stream, that is still open
    uint32_t tid;          // 0: a free entry
    bool is_asked, is_known;
    struct thread_call call;
};

struct threads {
    struct thread *table;
    uint32_t mask, count, asked;
    uint32_t self;
    const struct snapshot *snapshot;
};

static bool open_table(struct threads *threads, struct scratch *scratch, uint32_t sockets) {
    uint32_t size = TABLE_MIN;
    while (size < TABLE_MAX && size < 4 * sockets) // each names two threads at most
        size *= 2;
    threads->table = scratch_take(scratch, (size_t)size * sizeof *threads->table);
    threads->mask = size - 1;
    threads->self = (uint32_t)sys_gettid();
    return threads->table != NULL;
}

// The entry of a thread; NULL for none, and where the table is three quarters full.
static struct thread *thread_of(struct threads *threads, uint32_t tid) {
    if (tid == 0)
        return NULL;
    for (uint32_t i = tid * 0x9e3779b1u;; i++) {
        struct thread *entry = &threads->table[i & threads->mask];
        if (entry->tid == tid)
            return entry;
        if (entry->tid)
            continue;
        if (threads->count > threads->mask / 4 * 3)
            return NULL;
        threads->count++;
        entry->tid = tid;
        return entry;
    }
}

static void see(struct threads *threads, uint32_t tid, uint64_t ns) {
    struct thread *thread = thread_of(threads, tid);
    if (thread && thread->last_seen_ns < ns)
        thread->last_seen_ns = ns;
}

// --- /proc/self/task/TID/syscall ----------------------------------------------------------------

// Up to `max` numbers, decimal first, then hexadecimal: "0 0x3 0x7ffc...". Returns how many.
static int parse(const char *text, const char *end, int32_t *number, uint64_t *arguments, int max) {
    uint64_t first;
    const char *at = memchr(text, ' ', (size_t)(end - text));
    if (!at || !text_parse(text, at, INT32_MAX, &first))
        return 0;
    *number = (int32_t)first;
    int count = 0;
    for (; count < max && end - at > 3 && at[0] == ' ' && at[1] == '0' && at[2] == 'x'; count++) {
        uint64_t value = 0;
        for (at += 3; at < end && *at != ' ' && *at != '\n'; at++)
            value = value << 4 | (uint64_t)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
        arguments[count] = value;
    }
    return count;
}

static void ask_proc(struct thread *thread) {
    char text[256];
    long len = process_read_thread_file(thread->tid, "syscall", text, sizeof text);
    if (len <= 0)
        return; // no /proc, no descriptor left, or a kernel without it: not known
    uint64_t arguments[3];
    thread->is_known = true;
    if (parse(text, text + len, &thread->call.number, arguments, 3) == 3)
        thread->call.fd = call_fd(thread->call.number, arguments);
    else // "running", or "-1 ..." for one that waits outside of a system call
        thread->call.number = THREAD_CALL_RUNNING;
}

static bool may_ask(const struct threads *threads) {
    return threads->asked < THREADS_ASKED_MAX;
}

// Whether it has ended is for /proc to say; beyond what may be asked, whether the kernel has it.
static bool runs(const struct threads *threads, uint32_t tid) {
    return may_ask(threads) ? process_thread_runs(tid) : process_has_thread(tid);
}

static void ask(struct threads *threads, struct thread *thread) {
    if (thread->is_asked)
        return;
    thread->is_asked = true;
    thread->call = (struct thread_call){THREAD_CALL_RUNNING, -1};
    if (thread->tid == threads->self) {
        interrupted_call(&thread->call);
        thread->is_known = true;
    } else if (!runs(threads, thread->tid)) {
        thread->call.number = THREAD_CALL_GONE;
        thread->is_known = true;
    } else if (may_ask(threads)) {
        threads->asked++;
        ask_proc(thread);
    }
}

// --- into the records ---------------------------------------------------------------------------

static void note(struct threads *threads, struct ledger_record *record) {
    struct ledger_snapshot *snapshot = &record->snapshot;
    struct thread *thread =
        thread_of(threads, record->eof_tid ? record->eof_tid : record->birth_tid);
    if (!thread)
        return;
    if (record->eof_ns && thread->last_seen_ns > record->eof_ns)
        snapshot->flags |= SNAPSHOT_READER_SEEN_SINCE;
    ask(threads, thread);
    if (!thread->is_known)
        return;
    snapshot->thread = thread->tid;
    snapshot->thread_call = thread->call.number;
    snapshot->thread_fd = thread->call.fd;
    uint32_t waited_on = ledger_fd(thread->call.fd);
    if (waited_on) {
        snapshot->thread_fd_type = 1;
        snapshot->thread_fd_record = waited_on;
    }
}

// Apart, where no descriptor is free.
static void note_all(void *context) {
    struct threads *threads = context;
    const struct snapshot *snapshot = threads->snapshot;
    for (uint32_t i = 0; i < snapshot->socket_count; i++) {
        struct ledger_record *record = ledger_record(snapshot->sockets[i]);
        if (verdict_is_leak(record->snapshot.verdict) && record->process == ledger.header->process)
            note(threads, record);
    }
}

void threads_look_at(const struct snapshot *snapshot, struct scratch *scratch) {
    struct threads threads = {.snapshot = snapshot};
    bool any = false;
    for (uint32_t i = 0; i < snapshot->socket_count && !any; i++)
        any = verdict_is_leak(ledger_record(snapshot->sockets[i])->snapshot.verdict);
    if (!any || !open_table(&threads, scratch, snapshot->socket_count))
        return;
    // Threads of another process do not count: a record that a fork left here names its parent's.
    for (uint32_t i = 0; i < snapshot->socket_count; i++) {
        const struct ledger_record *record = ledger_record(snapshot->sockets[i]);
        if (record->process != ledger.header->process)
            continue;
        see(&threads, record->birth_tid, record->birth_ns);
        see(&threads, record->eof_tid, record->eof_ns);
    }
    apart_run(note_all, &threads);
}
