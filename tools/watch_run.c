#include "watch_run.h"
#include "live.h"
#include "run_descendants.h"
#include "run_gather.h"
#include "watch.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LATE_PAUSE_MS = 60000, // between two reports of late sockets: the evidence was in the first
    CHECK_SHARE = 20       // of the time, for checks that find nothing to tell: one of so many
};

struct inodes {
    uint64_t *inodes;
    uint32_t count;
};

struct watch_run {
    struct watch_run_options options;
    struct watch *watch;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool is_ending;
    uint64_t next_look_ms, next_check_ms;
    struct inodes told; // of sockets that were late, and reported
};

static uint64_t monotonic_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// --- a report of what runs now ------------------------------------------------------------------

// NULL where it could not be made (said so).
static struct report *report_now(const struct watch_run *run, uint64_t grace_max_ms) {
    struct report *report = report_new();
    struct report_options options = run->options.shared->report;
    options.progress = false;
    if (grace_max_ms < options.grace_ms)
        options.grace_ms = (uint32_t)grace_max_ms;
    run_gather(report, run->options.directory);
    for (uint32_t i = 0; i < report->process_count; i++) // each has the grace of its own options
        if (grace_max_ms < report->processes[i]->grace_ms)
            report->processes[i]->grace_ms = (uint32_t)grace_max_ms;
    if (report_finish(report, &options) == 0)
        return report;
    report_free(report);
    return NULL;
}

static void look(struct watch_run *run) {
    struct watch_style style = {.front = "sockleak: ",
                                .color = terminal_has_color(stderr, run->options.shared->color)};
    struct report *report = report_now(run, UINT64_MAX);
    if (report) {
        watch_look(run->watch, report, &style, stderr);
        fflush(stderr);
    }
    report_free(report);
}

// --- sockets that are late ----------------------------------------------------------------------

static void add_live(void *context, pid_t pid) {
    live_add(context, pid);
}

static bool has_inode(const struct inodes *list, uint64_t inode) {
    for (uint32_t i = 0; i < list->count; i++)
        if (list->inodes[i] == inode)
            return true;
    return false;
}

static void add_inode(struct inodes *list, uint64_t inode) {
    list->inodes = must_grow(list->inodes, list->count, sizeof *list->inodes);
    list->inodes[list->count++] = inode;
}

struct late {
    struct inodes sockets; // in CLOSE_WAIT for too long
    bool has_new;
    uint64_t next_ms; // until another one may be late
};

static void look_at_socket(const struct watch_run *run, const struct report_socket_facts *facts,
                           struct late *late) {
    const struct ledger_snapshot *snapshot = &facts->snapshot;
    uint64_t limit_ms = run->options.leak_after_ms;
    if (snapshot->state != STATE_CLOSE_WAIT)
        return;
    if (snapshot->state_age_ms < limit_ms) {
        uint64_t left_ms = limit_ms - snapshot->state_age_ms;
        late->next_ms = left_ms < late->next_ms ? left_ms : late->next_ms;
        return;
    }
    add_inode(&late->sockets, facts->inode);
    late->has_new |= !has_inode(&run->told, facts->inode);
}

static struct late find_late(const struct watch_run *run) {
    // What is in CLOSE_WAIT at no time before now cannot be late before then.
    struct late late = {.next_ms = run->options.leak_after_ms};
    struct live live = LIVE_EMPTY;
    descendants_each(add_live, &live);
    live_ask_kernel(&live);
    for (uint32_t i = 0; i < live.count; i++)
        for (uint32_t k = 0; k < live.processes[i].socket_count; k++)
            look_at_socket(run, &live.processes[i].sockets[k], &late);
    live_free(&live);
    return late;
}

// Those of the leaks in a report that are late. (A socket that is late may be no leak: a program
// that still answers, or it is suppressed.)
static struct inodes late_leaks(const struct report *report, const struct late *late) {
    struct inodes leaks = {0};
    for (uint32_t i = 0; i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->finding_count; k++) {
            const struct report_finding *finding = &report->processes[i]->findings[k];
            if (!finding->is_leak || finding->suppressed_by || finding->is_known)
                continue;
            for (uint32_t n = 0; n < finding->socket_count; n++)
                if (has_inode(&late->sockets, finding->sockets[n]->record.inode))
                    add_inode(&leaks, finding->sockets[n]->record.inode);
        }
    return leaks;
}

static void write_late(const struct watch_run *run, const struct report *report, uint32_t count) {
    struct format_options plain = FORMAT_OPTIONS_DEFAULT;
    char age[32];
    struct text_buffer text = text_buffer(age, sizeof age);
    text_age(&text, run->options.leak_after_ms);
    error_say("%u socket%s in CLOSE_WAIT for %s or longer:", count, count == 1 ? " is" : "s are",
              age);
    plain.render = run->options.shared->render;
    plain.color = run->options.shared->color;
    format_options_write(&plain, report, stderr, false);
}

// Returns false where there was nothing new to tell.
static bool tell_late(struct watch_run *run, const struct late *late) {
    struct report *report = report_now(run, run->options.leak_after_ms);
    if (!report)
        return false;
    struct inodes leaks = late_leaks(report, late);
    bool has_new = false;
    for (uint32_t i = 0; i < leaks.count; i++)
        has_new |= !has_inode(&run->told, leaks.inodes[i]);
    if (has_new)
        write_late(run, report, leaks.count);
    report_free(report);
    free(run->told.inodes);
    run->told = leaks;
    return has_new;
}

static void check(struct watch_run *run) {
    uint64_t start_ms = monotonic_ms();
    struct late late = find_late(run);
    uint64_t pause_ms = late.next_ms;
    if (late.has_new) {
        bool told = tell_late(run, &late);
        uint64_t took_ms = monotonic_ms() - start_ms;
        // Until another one is late, nothing is new but what stops to answer.
        uint64_t least_ms = told ? LATE_PAUSE_MS : took_ms * CHECK_SHARE;
        pause_ms = pause_ms > least_ms ? pause_ms : least_ms;
    }
    free(late.sockets.inodes);
    run->next_check_ms = monotonic_ms() + pause_ms;
}

// --- the thread ---------------------------------------------------------------------------------

static bool wait_until(struct watch_run *run, uint64_t then_ms) {
    struct timespec then = {(time_t)(then_ms / 1000), (long)(then_ms % 1000) * 1000000};
    int error = 0;
    pthread_mutex_lock(&run->lock);
    while (!run->is_ending && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&run->ended, &run->lock, &then);
    bool goes_on = !run->is_ending;
    pthread_mutex_unlock(&run->lock);
    return goes_on;
}

static void *watch_thread(void *context) {
    struct watch_run *run = context;
    for (;;) {
        uint64_t next_ms =
            run->next_look_ms < run->next_check_ms ? run->next_look_ms : run->next_check_ms;
        if (!wait_until(run, next_ms))
            return NULL;
        uint64_t now_ms = monotonic_ms();
        if (run->next_check_ms <= now_ms)
            check(run);
        if (run->next_look_ms > now_ms)
            continue;
        look(run);
        // Where a look takes longer than the interval, the next ones are left out.
        while (run->next_look_ms <= monotonic_ms())
            run->next_look_ms += run->options.interval_ms;
    }
}

struct watch_run *watch_run_start(const struct watch_run_options *options) {
    if (!options->interval_ms && !options->leak_after_ms)
        return NULL;
    pthread_condattr_t monotonic;
    struct watch_run *run = must_allocate(1, sizeof *run);
    uint64_t now_ms = monotonic_ms();
    run->options = *options;
    run->next_look_ms = options->interval_ms ? now_ms + options->interval_ms : UINT64_MAX;
    run->next_check_ms = options->leak_after_ms ? now_ms + options->leak_after_ms : UINT64_MAX;
    run->watch = watch_new();
    pthread_mutex_init(&run->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&run->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int error = pthread_create(&run->thread, NULL, watch_thread, run);
    if (error == 0)
        return run;
    error_warn("no thread to look at the command while it runs: %s", strerror(error));
    watch_free(run->watch);
    free(run);
    return NULL;
}

void watch_run_stop(struct watch_run *run) {
    if (!run)
        return;
    pthread_mutex_lock(&run->lock);
    run->is_ending = true;
    pthread_cond_signal(&run->ended);
    pthread_mutex_unlock(&run->lock);
    pthread_join(run->thread, NULL);
    pthread_cond_destroy(&run->ended);
    pthread_mutex_destroy(&run->lock);
    watch_free(run->watch);
    free(run->told.inodes);
    free(run);
}
