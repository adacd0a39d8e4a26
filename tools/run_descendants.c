#include "run_descendants.h"
#include "base/clock.h"
#include "base_name.h"
#include "errors.h"
#include "procfs.h"
#include "visibility.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BUCKETS = 1024,
    DEPTH_MAX = 256,     // of the tree
    UNWATCHED_MAX = 1000 // named; more are as bad as these
};

// A program that a process runs: exec makes another of it.
struct seen {
    struct seen *next;
    pid_t pid;
    uint64_t start_ticks;
    dev_t exe_device;
    ino_t exe_inode;
    bool is_settled;
    bool has_ledger;
    uint64_t last_look; // that found it running
    uint64_t gone_ns;   // CLOCK_MONOTONIC, when it was found gone; 0: it was not
};

struct unwatched {
    pid_t pid;
    char *exe;
    const char *problem;
    bool is_marked; // as its mark has it
};

struct descendants {
    struct seen *buckets[BUCKETS];
    size_t seen_count;
    struct seen **running; // as of the last look
    size_t running_count, running_room;
    uint64_t looks;
    struct unwatched *unwatched;
    uint32_t unwatched_count;
    uint64_t unnamed; // more than UNWATCHED_MAX
    bool cannot_look; // the kernel does not tell a process's children
    int ledgers_fd;   // -1: none
};

struct descendants *descendants_new(void) {
    struct descendants *list = must_allocate(1, sizeof *list);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    list->cannot_look = access(path, R_OK) < 0;
    list->ledgers_fd = -1;
    return list;
}

void descendants_free(struct descendants *list) {
    for (int i = 0; i < BUCKETS; i++)
        while (list->buckets[i]) {
            struct seen *seen = list->buckets[i];
            list->buckets[i] = seen->next;
            free(seen);
        }
    for (uint32_t i = 0; i < list->unwatched_count; i++)
        free(list->unwatched[i].exe);
    free(list->unwatched);
    free(list->running);
    free(list);
}

// --- the tree -----------------------------------------------------------------------------------

typedef void each_function(void *context, pid_t pid);

static void walk(pid_t parent, each_function *each, void *context, int depth);

static void walk_children_of_thread(pid_t parent, const char *thread, each_function *each,
                                    void *context, int depth) {
    char path[300];
    char *children = NULL;
    size_t room = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%s/children", (int)parent, thread);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    ssize_t len = getline(&children, &room, file);
    fclose(file);
    for (char *at = children; len > 0;) {
        char *end;
        long pid = strtol(at, &end, 10);
        if (end == at || pid <= 0)
            break;
        at = end;
        each(context, (pid_t)pid);
        walk((pid_t)pid, each, context, depth + 1);
    }
    free(children);
}

static void walk(pid_t parent, each_function *each, void *context, int depth) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)parent);
    DIR *threads = depth < DEPTH_MAX ? opendir(path) : NULL;
    const struct dirent *entry;
    while (threads && (entry = readdir(threads)))
        if (entry->d_name[0] != '.')
            walk_children_of_thread(parent, entry->d_name, each, context, depth);
    if (threads)
        closedir(threads);
}

static bool is_alive(pid_t pid) {
    struct procfs_status status;
    return procfs_status(pid, &status) == 0 && status.state != 'Z' && status.state != 'X';
}

struct each_alive {
    each_function *each;
    void *context;
};

static void if_alive(void *context, pid_t pid) {
    const struct each_alive *alive = context;
    if (is_alive(pid))
        alive->each(alive->context, pid);
}

void descendants_each(each_function *each, void *context) {
    struct each_alive alive = {each, context};
    walk(getpid(), if_alive, &alive, 0);
}

static void note_any(void *context, pid_t pid) {
    (void)pid;
    *(bool *)context = true;
}

bool descendants_any(void *list) {
    (void)list;
    bool any = false;
    descendants_each(note_any, &any);
    return any;
}

// --- who cannot be watched ----------------------------------------------------------------------

void descendants_add_unwatched(struct descendants *list, pid_t pid, const char *exe,
                               const char *problem) {
    if (list->unwatched_count == UNWATCHED_MAX) {
        list->unnamed++;
        return;
    }
    list->unwatched =
        must_reallocate(list->unwatched, list->unwatched_count + 1, sizeof *list->unwatched);
    list->unwatched[list->unwatched_count++] =
        (struct unwatched){pid, exe ? must_copy(exe) : NULL, problem, false};
}

static bool is_same_program(const char *exe, const char *other) {
    return strcmp(base_name(exe), base_name(other)) == 0;
}

// The one that a mark is about, if a look has seen it. A process leaves at most one: what cannot be
// watched leaves none.
static struct unwatched *find_seen(struct descendants *list, pid_t pid, const char *exe,
                                   const char *problem) {
    for (uint32_t i = 0; i < list->unwatched_count; i++) {
        struct unwatched *seen = &list->unwatched[i];
        bool is_it = pid ? seen->pid == pid
                         : strcmp(seen->problem, problem) == 0 && seen->exe &&
                               is_same_program(seen->exe, exe);
        if (is_it && !seen->is_marked)
            return seen;
    }
    return NULL;
}

void descendants_add_marked(struct descendants *list, pid_t pid, const char *exe,
                            const char *problem) {
    struct unwatched *seen = find_seen(list, pid, exe, problem);
    if (!seen) {
        uint32_t count = list->unwatched_count;
        descendants_add_unwatched(list, pid, exe, problem);
        seen = list->unwatched_count > count ? &list->unwatched[count] : NULL;
    }
    if (seen) {
        seen->is_marked = true;
        // The parent knew more than was to be seen from outside.
        seen->problem = problem;
        if (!seen->exe)
            seen->exe = must_copy(exe);
    }
}

// Where its program may not be asked for, it is the one that is named already.
static bool is_named(const struct descendants *list, pid_t pid, const char *exe,
                     const char *problem) {
    for (uint32_t i = 0; i < list->unwatched_count; i++)
        if (list->unwatched[i].pid == pid &&
            (!exe || strcmp(list->unwatched[i].problem, problem) == 0))
            return true;
    return false;
}

static struct seen *add_seen(struct descendants *list, pid_t pid, uint64_t start_ticks,
                             const struct stat *exe) {
    struct seen **bucket = &list->buckets[pid % BUCKETS];
    struct seen *seen = must_allocate(1, sizeof *seen);
    *seen = (struct seen){.next = *bucket,
                          .pid = pid,
                          .start_ticks = start_ticks,
                          .exe_device = exe->st_dev,
                          .exe_inode = exe->st_ino};
    *bucket = seen;
    list->seen_count++;
    if (list->running_count == list->running_room) {
        list->running_room = list->running_room ? 2 * list->running_room : 64;
        list->running = must_reallocate(list->running, list->running_room, sizeof seen);
    }
    list->running[list->running_count++] = seen;
    return seen;
}

static struct seen *seen_of(struct descendants *list, pid_t pid, const struct stat *exe) {
    struct procfs_status status;
    if (procfs_status(pid, &status) < 0 || status.state == 'Z' || status.state == 'X')
        return NULL;
    struct seen *seen = list->buckets[pid % BUCKETS];
    while (seen && (seen->pid != pid || seen->start_ticks != status.start_ticks || seen->gone_ns ||
                    seen->exe_device != exe->st_dev || seen->exe_inode != exe->st_ino))
        seen = seen->next;
    if (!seen)
        seen = add_seen(list, pid, status.start_ticks, exe);
    seen->last_look = list->looks;
    return seen;
}

static void look_at(void *context, pid_t pid) {
    struct descendants *list = context;
    struct stat exe = {0};
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    // Another user's cannot be asked for: then all its programs count as one.
    if (stat(path, &exe) < 0 && errno == ENOENT)
        return;
    struct seen *seen = seen_of(list, pid, &exe);
    if (!seen || seen->is_settled)
        return;
    const char *problem;
    int result = visibility_of_process(pid, &problem);
    char *name = result == 1 ? procfs_exe(pid) : NULL;
    // One that has ended meanwhile has no mappings, no program and no name: nothing can be said of
    // it.
    bool has_ended = stat(path, &exe) < 0 && errno == ENOENT;
    if (!has_ended) {
        seen->is_settled = result >= 0;
        if (result == 1 && !is_named(list, pid, name, problem))
            descendants_add_unwatched(list, pid, name, problem);
    }
    free(name);
}

static void note_gone(struct descendants *list) {
    uint64_t now_ns = clock_now_ns();
    size_t kept = 0;
    for (size_t i = 0; i < list->running_count; i++) {
        struct seen *seen = list->running[i];
        if (seen->last_look == list->looks)
            list->running[kept++] = seen;
        else
            seen->gone_ns = now_ns;
    }
    list->running_count = kept;
}

// --- who owns a ledger ---------------------------------------------------------------------------

void descendants_expect_ledgers(struct descendants *list, int fd) {
    list->ledgers_fd = fd;
}

// By the name PID-STARTTIME[-N].ledger. Another PID namespace's numbers are nobody's here, or
// somebody's who started at another time.
static void look_at_owner(struct descendants *list, const char *name) {
    int pid;
    unsigned long long start_ticks;
    struct stat exe = {0};
    char path[32];
    if (sscanf(name, "%d-%llu", &pid, &start_ticks) != 2 || pid <= 0)
        return;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    if (stat(path, &exe) < 0 && errno == ENOENT)
        return;
    seen_of(list, pid, &exe);
    for (size_t i = 0; i < list->running_count; i++) { // what it ran before, too
        struct seen *seen = list->running[i];
        if (seen->pid == pid && seen->start_ticks == start_ticks)
            seen->has_ledger = true;
    }
}

static void read_new_ledgers(struct descendants *list) {
    union {
        struct inotify_event event; // for its alignment
        char bytes[4096];
    } events;
    ssize_t len;
    while ((len = read(list->ledgers_fd, &events, sizeof events)) > 0)
        for (ssize_t at = 0; at < len;) {
            const struct inotify_event *event = (const void *)(events.bytes + at);
            if (event->len)
                look_at_owner(list, event->name);
            at += (ssize_t)(sizeof *event + event->len);
        }
}

void descendants_look_at_owners(void *context) {
    struct descendants *list = context;
    if (list->ledgers_fd >= 0)
        read_new_ledgers(list);
    uint64_t now_ns = clock_now_ns();
    size_t kept = 0;
    for (size_t i = 0; i < list->running_count; i++) {
        struct seen *seen = list->running[i];
        if (seen->has_ledger && !procfs_runs(seen->pid, seen->start_ticks))
            seen->gone_ns = now_ns;
        else
            list->running[kept++] = seen;
    }
    list->running_count = kept;
}

// --- a look at all -------------------------------------------------------------------------------

bool descendants_look(void *context) {
    struct descendants *list = context;
    size_t before = list->seen_count;
    list->looks++;
    walk(getpid(), look_at, list, 0);
    note_gone(list);
    return list->seen_count != before;
}

// --- when they ended ----------------------------------------------------------------------------

void descendants_ended(struct descendants *list, pid_t pid) {
    uint64_t now_ns = clock_now_ns();
    bool was_running = false;
    size_t kept = 0;
    for (size_t i = 0; i < list->running_count; i++) {
        struct seen *seen = list->running[i];
        if (seen->pid != pid) {
            list->running[kept++] = seen;
            continue;
        }
        seen->gone_ns = now_ns;
        was_running = true;
    }
    list->running_count = kept;
    if (was_running)
        return;
    // It was gone before the first look: nothing but its pid is known.
    struct seen *seen = add_seen(list, pid, 0, &(struct stat){0});
    list->running_count--;
    seen->gone_ns = now_ns;
}

// A process that exec'd is here once for each program.
uint64_t descendants_gone_ns(const struct descendants *list, pid_t pid, uint64_t start_ticks) {
    uint64_t gone_ns = 0;
    for (const struct seen *seen = list->buckets[pid % BUCKETS]; seen; seen = seen->next) {
        if (seen->pid != pid || (seen->start_ticks && seen->start_ticks != start_ticks))
            continue;
        if (seen->gone_ns == 0)
            return 0;
        gone_ns = seen->gone_ns > gone_ns ? seen->gone_ns : gone_ns;
    }
    return gone_ns;
}

void descendants_report_ends(const struct descendants *list, struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++) {
        struct report_process *process = report->processes[i];
        if (!process->is_judged && !process->is_observed && process->pid <= INT32_MAX)
            process->gone_ns =
                descendants_gone_ns(list, (pid_t)process->pid, process->start_time_ticks);
    }
}

void descendants_report_unwatched(const struct descendants *list, struct report *report) {
    for (uint32_t i = 0; i < list->unwatched_count; i++) {
        const struct unwatched *unwatched = &list->unwatched[i];
        report_add_unwatched(report, (uint32_t)unwatched->pid, unwatched->exe, unwatched->problem);
    }
    if (list->unnamed) {
        char note[80];
        snprintf(note, sizeof note, "and %llu more processes could not be watched",
                 (unsigned long long)list->unnamed);
        report_note_text(report, note);
    }
    if (list->cannot_look)
        report_note_text(report, "this kernel does not tell a process's children "
                                 "(CONFIG_PROC_CHILDREN): programs that cannot be watched, such as "
                                 "statically linked ones, are not noticed");
}
