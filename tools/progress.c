#include "progress.h"
#include "errors.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
    FIRST_MS = 1000,
    NEXT_MS = 250
};

struct progress {
    const char *what;
    atomic_int percent;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool is_ended;
    int shown_columns;
};

static struct timespec later(struct timespec time, long ms) {
    long ns = time.tv_nsec + ms % 1000 * 1000000;
    return (struct timespec){time.tv_sec + ms / 1000 + ns / 1000000000, ns % 1000000000};
}

static void *show(void *context) {
    struct progress *progress = context;
    struct timespec start, next;
    clock_gettime(CLOCK_MONOTONIC, &start);
    next = later(start, FIRST_MS);
    pthread_mutex_lock(&progress->lock);
    for (;;) {
        int error = 0;
        while (!progress->is_ended && error != ETIMEDOUT)
            error = pthread_cond_timedwait(&progress->ended, &progress->lock, &next);
        if (progress->is_ended)
            break;
        progress->shown_columns =
            fprintf(stderr, "\rsockleak: %s: %d %% (%ld s)", progress->what,
                    atomic_load(&progress->percent), (long)(next.tv_sec - start.tv_sec));
        fflush(stderr);
        next = later(next, NEXT_MS);
    }
    pthread_mutex_unlock(&progress->lock);
    return NULL;
}

struct progress *progress_start(const char *what) {
    if (!isatty(STDERR_FILENO))
        return NULL;
    pthread_condattr_t monotonic;
    struct progress *progress = must_allocate(1, sizeof *progress);
    progress->what = what;
    pthread_mutex_init(&progress->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&progress->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&progress->thread, NULL, show, progress) == 0)
        return progress;
    free(progress); // then without
    return NULL;
}

void progress_set(struct progress *progress, size_t done, size_t all) {
    if (progress && all)
        atomic_store(&progress->percent, (int)(100 * done / all));
}

void progress_end(struct progress *progress) {
    if (!progress)
        return;
    pthread_mutex_lock(&progress->lock);
    progress->is_ended = true;
    pthread_cond_signal(&progress->ended);
    pthread_mutex_unlock(&progress->lock);
    pthread_join(progress->thread, NULL);
    if (progress->shown_columns > 0) // blanks, since a dumb terminal knows no escapes
        fprintf(stderr, "\r%*s\r", progress->shown_columns - 1, "");
    pthread_cond_destroy(&progress->ended);
    pthread_mutex_destroy(&progress->lock);
    free(progress);
}
