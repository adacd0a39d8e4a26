#include "threads.h"
#include "errors.h"
#include "procfs.h"
#include "thread_calls.h"
#include "thread_stacks.h"
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    THREADS_MAX = 10000
};

static ssize_t read_of(pid_t pid, pid_t tid, const char *name, char *out, size_t out_bytes) {
    char path[96];
    snprintf(path, sizeof path, "/proc/%d/task/%d/%s", (int)pid, (int)tid, name);
    return procfs_read(path, out, out_bytes);
}

// --- since when ---------------------------------------------------------------------------------

// The scheduler's clock when a thread was last on a CPU, in ms: se.exec_start of /proc/PID/sched
// (kernel/sched/debug.c). A blocked thread was, when it blocked. -1: this kernel does not tell.
static double last_ran_ms(pid_t pid, pid_t tid) {
    char text[4096];
    double ms;
    if (read_of(pid, tid, "sched", text, sizeof text) <= 0)
        return -1;
    const char *at = strstr(text, "\nse.exec_start");
    const char *colon = at ? strchr(at, ':') : NULL;
    return colon && sscanf(colon + 1, "%lf", &ms) == 1 ? ms : -1;
}

// Which CPU a thread was on: field 39 of /proc/PID/stat.
static int cpu_of(pid_t pid, pid_t tid) {
    char text[1024];
    int cpu = -1;
    if (read_of(pid, tid, "stat", text, sizeof text) <= 0)
        return -1;
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 39; field++)
        at = strchr(at + 1, ' ');
    return at && sscanf(at, "%d", &cpu) == 1 ? cpu : -1;
}

// That clock is one for each CPU, since it leaves out interrupts and what a hypervisor took
// (rq_clock_task()): now is when we last ran on the same one.
static double now_ms_on(int cpu) {
    cpu_set_t before, only;
    CPU_ZERO(&only);
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof before, &before) < 0)
        return -1;
    CPU_SET((size_t)cpu, &only);
    if (sched_setaffinity(0, sizeof only, &only) < 0)
        return -1;
    sched_yield(); // brings our own up to date
    double now_ms = last_ran_ms(getpid(), gettid());
    sched_setaffinity(0, sizeof before, &before);
    return now_ms;
}

static int64_t blocked_ms(pid_t pid, pid_t tid) {
    double then_ms = last_ran_ms(pid, tid);
    double now_ms = then_ms < 0 ? -1 : now_ms_on(cpu_of(pid, tid));
    if (now_ms < 0)
        return -1;
    return now_ms > then_ms ? (int64_t)(now_ms - then_ms) : 0;
}

// --- what on ------------------------------------------------------------------------------------

static void name_fd(struct report *report, pid_t pid, struct report_thread *thread) {
    char path[64], target[256];
    unsigned long long inode;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, (int)thread->fd);
    ssize_t len = thread->fd >= 0 ? readlink(path, target, sizeof target - 1) : -1;
    if (len < 0)
        return;
    target[len] = '\0';
    thread->fd_target = arena_name(&report->arena, target);
    if (sscanf(target, "socket:[%llu]", &inode) == 1)
        thread->fd_inode = inode;
}

static void describe(struct report *report, pid_t pid, struct report_thread *thread) {
    char text[256];
    pid_t tid = (pid_t)thread->tid;
    struct thread_call call;
    if (read_of(pid, tid, "comm", text, sizeof text) > 0) {
        text[strcspn(text, "\n")] = '\0';
        thread->name = arena_name(&report->arena, text);
    }
    const char *state =
        read_of(pid, tid, "stat", text, sizeof text) > 0 ? strrchr(text, ')') : NULL;
    thread->state = state && state[1] ? state[2] : '?';
    thread->blocked_ms = -1;
    thread->fd = -1;
    thread->call = -1;
    if (thread_call_read(pid, tid, &call) < 0 || call.number < 0)
        return;
    thread->call = call.number;
    thread->call_name = thread_call_name(call.number);
    thread_call_wait(pid, &call, &thread->fd, &thread->fd_count);
    name_fd(report, pid, thread);
    thread->blocked_ms = blocked_ms(pid, tid);
    if (read_of(pid, tid, "wchan", text, sizeof text) > 0 && strcmp(text, "0") != 0)
        thread->wait_channel = arena_name(&report->arena, text);
}

// --- all of them --------------------------------------------------------------------------------

static int by_tid(const void *left, const void *right) {
    const struct report_thread *a = left, *b = right;
    return (a->tid > b->tid) - (a->tid < b->tid);
}

static int list_threads(struct report *report, pid_t pid, struct report_process *process) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    uint32_t count = 0, room = 0;
    struct report_thread *list = NULL;
    if (!dir)
        return errno == ENOENT ? -ESRCH : -errno;
    while ((entry = readdir(dir)) && count < THREADS_MAX) {
        long tid = strtol(entry->d_name, NULL, 10);
        if (tid <= 0)
            continue;
        if (count == room) {
            room = room ? 2 * room : 64;
            list = must_reallocate(list, room, sizeof *list);
        }
        list[count++] = (struct report_thread){.tid = (uint32_t)tid};
    }
    closedir(dir);
    if (count)
        qsort(list, count, sizeof *list, by_tid);
    process->threads = arena_take(&report->arena, count, sizeof *list);
    if (count)
        memcpy(process->threads, list, count * sizeof *list);
    process->thread_count = count;
    free(list);
    return 0;
}

static struct report_process *process_of(const struct report *report, pid_t pid) {
    for (uint32_t i = 0; i < report->process_count; i++)
        if (report->processes[i]->pid == (uint32_t)pid && report->processes[i]->is_observed)
            return report->processes[i];
    return NULL;
}

int threads_add(struct report *report, pid_t pid) {
    struct report_process *process = process_of(report, pid);
    int error = process ? list_threads(report, pid, process) : -ESRCH;
    if (error < 0)
        return error;
    for (uint32_t i = 0; i < process->thread_count; i++)
        describe(report, pid, &process->threads[i]);
    return thread_stacks_take(report, pid, process->threads, process->thread_count);
}

uint32_t thread_relation(const struct report_thread *thread, const struct report_socket *socket) {
    const struct ledger_record *record = &socket->record;
    bool is_ours = !verdict_is_inherited(record, socket->process->process);
    return (is_ours && record->birth_tid == thread->tid ? THREAD_OPENED : 0u) |
           (is_ours && record->eof_ns && record->eof_tid == thread->tid ? THREAD_READ_END : 0u);
}
