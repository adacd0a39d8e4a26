// The differential stress: seeded random socket operations, in several threads and processes, under
// the library; at random moments and at the end the library's report is compared with the kernel's
// own table, socket for socket. run.py runs it, and finds the shortest prefix of what went wrong.
//
// Two ways. In turns (the default) one thread of one process runs at a time, and which one, and
// what it does, follows from the seed and the operation's number alone: so a run can be cut short,
// and operations left out, and the rest stays the same. Free (--free), all run side by side, are
// held up in the middle of whatever they do, and stand still for the comparison only.
#include "stress.h"
#include "base/sys.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    OVERTAKEN_EVERY_US = 700,
    OVERTAKEN_NS_MAX = 300000,
    TURN_OPERATIONS = 8, // one thread after the other, before it is another's turn
    EXIT_DISAGREEMENT = 1,
    EXIT_USAGE = 2,
};

struct shared *shared;
struct settings settings = {.processes = 2, .threads = 3, .every = 200, .operations = 20000};

// --- random numbers -----------------------------------------------------------------------------

uint64_t stress_mix(uint64_t a, uint64_t b) { // splitmix64's step
    uint64_t x = a + 0x9e3779b97f4a7c15u * (b + 1);
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t stress_random(struct actor *actor) {
    actor->random = stress_mix(actor->random, 0);
    return actor->random;
}

unsigned stress_below(struct actor *actor, unsigned limit) {
    return limit ? (unsigned)((stress_random(actor) >> 32) * limit >> 32) : 0;
}

void stress_trace(const struct actor *actor, const char *what, long a, long b, long result) {
    if (!settings.trace)
        return;
    char line[160];
    int len = snprintf(line, sizeof line, "%8llu  p%u t%u%s  %s(%ld, %ld) = %ld\n",
                       (unsigned long long)actor->operation, actor->process, actor->number,
                       actor->depth ? " child" : "", what, a, b, result);
    sys_write(1, line, (size_t)len);
}

// --- which operations ---------------------------------------------------------------------------

struct range {
    uint64_t first, end;
};

static struct range *only; // NULL: all
static size_t only_count;

// "3-9,12": sorted, ends included.
static void parse_only(const char *text) {
    for (const char *at = text; *at;) {
        char *rest;
        uint64_t first = strtoull(at, &rest, 10), last = first;
        if (*rest == '-')
            last = strtoull(rest + 1, &rest, 10);
        struct range *more = realloc(only, (only_count + 1) * sizeof *only);
        if (!more)
            abort();
        only = more;
        only[only_count++] = (struct range){first, last + 1};
        at = *rest == ',' ? rest + 1 : rest;
        if (at == rest && *rest)
            exit(EXIT_USAGE);
    }
}

static bool is_wanted(uint64_t operation) {
    size_t low = 0, high = only_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (operation >= only[middle].end)
            low = middle + 1;
        else
            high = middle;
    }
    return !only || (low < only_count && operation >= only[low].first);
}

static void run_one(struct actor *actor, uint64_t operation) {
    actor->operation = operation;
    actor->random = stress_mix(settings.seed, operation);
    if (is_wanted(operation))
        operation_run(actor);
}

static bool check_is_due(uint64_t operation, uint64_t every) {
    return every && stress_mix(settings.seed ^ 0xc0ffee, operation) % every == 0;
}

static bool has_failed(void) {
    return __atomic_load_n(&shared->failed, __ATOMIC_RELAXED) != 0;
}

static void futex(uint32_t *word, int what, uint32_t value) {
    sys_call(SYS_futex, (long)word, what, value, 0, 0, 0);
}

// --- in turns -----------------------------------------------------------------------------------

static unsigned actors(void) {
    return settings.processes * settings.threads;
}

static unsigned whose_turn(uint64_t operation) {
    return (unsigned)(stress_mix(settings.seed ^ 0x7e57, operation / TURN_OPERATIONS) % actors());
}

static void wake(unsigned number) {
    __atomic_fetch_add(&shared->gate[number], 1, __ATOMIC_RELEASE);
    futex(&shared->gate[number], FUTEX_WAKE, 1);
}

static void wake_all(void) {
    for (unsigned i = 0; i < actors(); i++)
        wake(i);
}

// Waits until it is this thread's turn. Returns false at the end.
static bool wait_for_turn(unsigned number, uint64_t *turn) {
    for (;;) {
        uint32_t seen = __atomic_load_n(&shared->gate[number], __ATOMIC_ACQUIRE);
        *turn = __atomic_load_n(&shared->turn, __ATOMIC_ACQUIRE);
        if (*turn >= settings.operations || has_failed())
            return false;
        if (whose_turn(*turn) == number)
            return true;
        futex(&shared->gate[number], FUTEX_WAIT, seen);
    }
}

static void run_in_turns(struct actor *actor) {
    uint64_t turn;
    while (wait_for_turn(actor->number, &turn)) {
        uint64_t end = (turn / TURN_OPERATIONS + 1) * TURN_OPERATIONS;
        for (; turn < end && turn < settings.operations && !has_failed(); turn++) {
            run_one(actor, turn);
            model_tidy();
            if (check_is_due(turn, settings.every))
                check_all(actor);
        }
        __atomic_store_n(&shared->turn, turn, __ATOMIC_RELEASE);
        if (turn >= settings.operations || has_failed())
            wake_all();
        else if (whose_turn(turn) != actor->number)
            wake(whose_turn(turn));
    }
    wake_all();
}

// --- free ---------------------------------------------------------------------------------------

static unsigned standing, running;
static int halt;

static void stand_still(void) {
    __atomic_fetch_add(&standing, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&halt, __ATOMIC_ACQUIRE))
        sys_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    __atomic_fetch_sub(&standing, 1, __ATOMIC_ACQ_REL);
}

// The process's first thread compares, when the others stand still or have ended.
static void check_at_rest(struct actor *actor) {
    __atomic_store_n(&halt, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&standing, __ATOMIC_ACQUIRE) + 1 <
           __atomic_load_n(&running, __ATOMIC_ACQUIRE))
        sys_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    check_all(actor);
    __atomic_store_n(&halt, 0, __ATOMIC_RELEASE);
    while (__atomic_load_n(&standing, __ATOMIC_ACQUIRE))
        sys_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

static void run_free(struct actor *actor, bool first) {
    uint64_t own = settings.operations / actors();
    for (uint64_t i = 0; i < own && !has_failed(); i++) {
        uint64_t operation = i * actors() + actor->number;
        if (__atomic_load_n(&halt, __ATOMIC_ACQUIRE))
            stand_still();
        run_one(actor, operation);
        model_lock();
        bool has_room = model_tidy();
        model_unlock();
        if (first && (check_is_due(operation, settings.every / settings.threads) || !has_room))
            check_at_rest(actor);
    }
    __atomic_fetch_sub(&running, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&halt, __ATOMIC_ACQUIRE))
        sys_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

// ThreadSanitizer's runtime runs a handler wherever the thread is, should that be in a call that
// may block; and in there are the library's hooks, which are instrumented, and so the runtime
// itself, with its locks held. The handlers are none of its business, then.
#ifdef __SANITIZE_THREAD__
#define HANDLER __attribute__((no_sanitize_thread))
static int set_action(int number, const struct sigaction *action, struct sigaction *old) {
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    int (*of_libc)(int, const struct sigaction *, struct sigaction *);
    *(void **)&of_libc = dlsym(libc, "sigaction");
    return of_libc(number, action, old);
}
#else
#define HANDLER
#define set_action sigaction
#endif

HANDLER void stress_on_interruption(int signal) {
    (void)signal;
}

// A signal each so often, to this thread.
static void expect(int number, void (*handler)(int), int flags, long interval_us) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct sigevent to_this_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = number};
    struct timespec interval = {interval_us / 1000000, interval_us % 1000000 * 1000};
    timer_t timer;
    to_this_thread._sigev_un._tid = sys_gettid(); // <signal.h> lacks sigev_notify_thread_id
    set_action(number, &action, NULL);
    if (timer_create(CLOCK_MONOTONIC, &to_this_thread, &timer) != 0 ||
        timer_settime(timer, 0, &(struct itimerspec){interval, interval}, NULL) != 0)
        exit(EXIT_USAGE);
}

// Lets the others overtake this thread wherever it is, in the library above all: what the scheduler
// does once in a long while.
static HANDLER void be_overtaken(int signal) {
    static __thread uint32_t random;
    (void)signal;
    if (random == 0)
        random = (uint32_t)settings.seed ^ (uint32_t)sys_gettid();
    random = random * 1664525 + 1013904223; // Numerical Recipes' generator
    struct timespec pause = {.tv_nsec = (long)((uint64_t)random * OVERTAKEN_NS_MAX >> 32)};
    sys_call(SYS_nanosleep, (long)&pause, 0, 0, 0, 0, 0);
}

static void be_disturbed(void) {
    expect(SIGUSR2, stress_on_interruption, 0, 1000000); // no SA_RESTART
    expect(SIGRTMIN + 1, be_overtaken, SA_RESTART, OVERTAKEN_EVERY_US);
}

// --- processes and threads ----------------------------------------------------------------------

static pthread_barrier_t all_are_ready;

static void *run_actor(void *argument) {
    struct actor *actor = argument;
    sites_open_pipe();
    pthread_barrier_wait(&all_are_ready);
    if (settings.free)
        be_disturbed();
    if (settings.free)
        run_free(actor, actor->number % settings.threads == 0);
    else
        run_in_turns(actor);
    sites_close_pipe();
    return NULL;
}

static void wait_for_dump(void);

static void run_process(unsigned process) {
    pthread_t threads[THREADS_MAX];
    static struct actor all[THREADS_MAX];
    running = settings.threads;
    model.exact = !settings.free;
    pthread_barrier_init(&all_are_ready, NULL, settings.threads);
    for (unsigned i = 0; i < settings.threads; i++) {
        all[i] = (struct actor){.process = process, .number = process * settings.threads + i};
        if (i && pthread_create(&threads[i], NULL, run_actor, &all[i]) != 0)
            exit(EXIT_USAGE);
    }
    run_actor(&all[0]);
    for (unsigned i = 1; i < settings.threads; i++)
        pthread_join(threads[i], NULL);
    all[0].operation = settings.operations;
    if (!has_failed())
        check_all(&all[0]);
    if (settings.expectations && !has_failed())
        wait_for_dump();
    exit(has_failed() ? EXIT_DISAGREEMENT : 0);
}

// One datagram pair a process, for passing descriptors: who wants to reach it writes to the one
// end.
static void open_channels(void) {
    for (unsigned i = 0; i < settings.processes; i++) {
        int low[2], high[2];
        if (((pair_site *)sites[SITE_pair_first].function)(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK,
                                                           low) != 0)
            exit(EXIT_USAGE);
        for (int end = 0; end < 2; end++) {
            model_lock();
            model_born(low[end], SITE_pair_first, PROVENANCE_CREATED, 0);
            high[end] = fcntl(low[end], F_DUPFD, STRESS_RESERVED_FD);
            model_refresh(high[end]);
            close(low[end]);
            model_refresh(low[end]);
            model_unlock();
        }
        shared->channel_in[i] = high[0];
        shared->channel_out[i] = high[1];
    }
}

// The writing ends of the pipes that hold the processes back until all have been started.
enum {
    GATES_FIRST_FD = STRESS_RESERVED_FD - 50,
};

static void close_gates(void) {
    sys_call(SYS_close_range, GATES_FIRST_FD, STRESS_RESERVED_FD - 1, 0, 0, 0, 0);
}

static void start_process(unsigned process) {
    int ready[2];
    sys_call(SYS_pipe2, (long)ready, O_CLOEXEC, 0, 0, 0, 0);
    model_lock();
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        model_forked();
        sys_close(ready[1]);
        close_gates(); // those of the processes before it
        while (sys_read(ready[0], &byte, 1) < 0)
            ; // until all have been started: their pids are known then
        sys_close(ready[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_process(process);
    }
    model_unlock();
    shared->pids[process] = (uint32_t)pid;
    sys_close(ready[0]);
    sys_call(SYS_fcntl, ready[1], F_DUPFD_CLOEXEC, GATES_FIRST_FD, 0, 0, 0);
    sys_close(ready[1]);
}

static int run_all(void) {
    int worst = 0, status;
    for (unsigned i = 0; i < settings.processes; i++)
        start_process(i);
    close_gates();
    for (pid_t pid; (pid = waitpid(-1, &status, 0)) > 0;) {
        if (status == 0)
            continue;
        dprintf(1, "stress: process %d ended with status %#x\n", (int)pid, (unsigned)status);
        __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
        wake_all();
        worst = EXIT_DISAGREEMENT;
    }
    return has_failed() ? EXIT_DISAGREEMENT : worst;
}

// --- main ---------------------------------------------------------------------------------------

// For a look from outside: what is open here, and which place opened it, in a file named by our
// pid; then waits until its reader has made DIRECTORY/done.
static void wait_for_dump(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/%d.expect", settings.expectations, getpid());
    check_write_expectations(path);
    snprintf(path, sizeof path, "%s/done", settings.expectations);
    while (access(path, F_OK) != 0)
        sys_sleep_ms(5);
}

static bool is_flag(const char *argument, const char *name, bool *flag) {
    if (strcmp(argument, name) != 0)
        return false;
    *flag = true;
    return true;
}

static const char *value_of(const char *argument, const char *name) {
    size_t len = strlen(name);
    return strncmp(argument, name, len) == 0 && argument[len] == '=' ? argument + len + 1 : NULL;
}

static void parse(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *value;
        if (is_flag(argv[i], "--free", &settings.free) ||
            is_flag(argv[i], "--trace", &settings.trace) ||
            is_flag(argv[i], "--no-children", &settings.no_children) ||
            is_flag(argv[i], "--seen", &settings.seen))
            continue;
        if ((value = value_of(argv[i], "--seed")))
            settings.seed = strtoull(value, NULL, 10);
        else if ((value = value_of(argv[i], "--operations")))
            settings.operations = strtoull(value, NULL, 10);
        else if ((value = value_of(argv[i], "--processes")))
            settings.processes = (unsigned)strtoul(value, NULL, 10);
        else if ((value = value_of(argv[i], "--threads")))
            settings.threads = (unsigned)strtoul(value, NULL, 10);
        else if ((value = value_of(argv[i], "--every")))
            settings.every = (unsigned)strtoul(value, NULL, 10);
        else if ((value = value_of(argv[i], "--only")))
            parse_only(value);
        else if ((value = value_of(argv[i], "--expectations")))
            settings.expectations = value;
        else {
            dprintf(1, "stress: '%s' is no option\n", argv[i]);
            exit(EXIT_USAGE);
        }
    }
#ifdef __SANITIZE_THREAD__
    settings.no_children = true; // its runtime does not go on in the child of a raw clone
#endif
    if (!settings.processes || settings.processes > PROCESSES_MAX || !settings.threads ||
        settings.threads > THREADS_MAX) {
        dprintf(1, "stress: 1 to %d processes of 1 to %d threads\n", PROCESSES_MAX, THREADS_MAX);
        exit(EXIT_USAGE);
    }
}

int main(int argc, char **argv) {
    struct rlimit files = {MODEL_FDS, MODEL_FDS};
    setrlimit(RLIMIT_NOFILE, &files);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc == 4 && strcmp(argv[1], "--after-exec") == 0)
        return children_after_exec(argv);
    parse(argc, argv);
    sys_call(SYS_close_range, 3, ~0u, 0, 0, 0, 0);
    model.exact = true;
    open_channels();
    int status = run_all();
    printf("operations %llu, checks %llu, compared %llu, unclear %llu, moved %llu\n",
           (unsigned long long)shared->operations, (unsigned long long)shared->checks,
           (unsigned long long)shared->compared, (unsigned long long)shared->unclear,
           (unsigned long long)shared->moved);
    return status;
}
