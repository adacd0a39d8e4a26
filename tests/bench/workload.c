// What the bench measures, one subcommand each. Bare and preloaded it does exactly the same; what
// it prints is its own measurement.
//
//   life COUNT DEPTH [THREADS [OPEN]]
//       loopback connections, both ends in this process, opened and closed at that many frames
//       deep, by each of the threads, beside OPEN connections that stay; prints nanoseconds of
//       processor time for each
//   ping COUNT         one byte there and one back on one connection; prints the same
//   recv COUNT         successful one-byte recv calls on one connection
//   idle               no socket at all: waits for a line on stdin
//   open COUNT [SITES] that many open connections, then waits for a line on stdin
//   leak COUNT [SITES] that many sockets left in CLOSE_WAIT, end of stream read, accepted with that
//                      many different stacks; then main returns. Prints the nanoseconds of
//                      CLOCK_MONOTONIC at which it does
//   soak COUNT PLUGIN...
//       that many connections, in as many parts as there are plugins; half of each part by the
//       plugin's own functions, which is unloaded behind it. Prints a line for each part:
//       connections so far, and Pss in KB
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// Processor time of this process, user and system: what a busy machine does not add to.
static uint64_t cpu_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static struct sockaddr_in address;

static int listen_on_loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t bytes = sizeof address;
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, bytes) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &bytes) < 0)
        die("listen");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return fd;
}

static int connect_to(const struct sockaddr_in *to) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof *to) < 0)
        die("connect");
    return fd;
}

static int connect_to_it(void) {
    return connect_to(&address);
}

static int accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("accept4");
    return fd;
}

// One connection's life: connect, accept, one byte, the client's FIN, the end of stream that the
// server reads, the server's FIN, both closed.
static void one_life(int listener) {
    char byte = 'x';
    int client = connect_to_it();
    int server = accept_one(listener);
    if (send(client, &byte, 1, 0) != 1 || recv(server, &byte, 1, 0) != 1)
        die("one byte");
    close(client);
    if (recv(server, &byte, 1, 0) != 0)
        die("end of stream");
    close(server);
}

__attribute__((noinline)) static int at_depth(int depth, int listener) {
    volatile int frames = depth; // keeps the call from being a jump
    if (depth > 0)
        return at_depth(depth - 1, listener) + frames;
    one_life(listener);
    return frames;
}

struct lives {
    int count, depth, listener, sum;
};

static void *live(void *arg) {
    struct lives *lives = arg;
    for (int i = 0; i < lives->count; i++)
        lives->sum += at_depth(lives->depth, lives->listener);
    return NULL;
}

enum {
    THREADS_MAX = 16
};

static void allow_files(int count);

static int life(int count, int depth, int threads, int open) {
    struct lives lives[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    if (threads < 1 || threads > THREADS_MAX)
        die("threads");
    allow_files(2 * open + 256);
    int listener = listen_on_loopback();
    for (int i = 0; i < open; i++) {
        connect_to_it();
        accept_one(listener);
    }
    for (int i = 0; i < threads; i++)
        lives[i] = (struct lives){100, depth, listener, 0};
    live(&lives[0]);
    uint64_t begun = cpu_ns();
    for (int i = 0; i < threads; i++) {
        lives[i] = (struct lives){count, depth, listener, 0};
        if (threads > 1 && pthread_create(&ids[i], NULL, live, &lives[i]) != 0)
            die("thread");
    }
    if (threads == 1)
        live(&lives[0]);
    for (int i = 0; threads > 1 && i < threads; i++)
        pthread_join(ids[i], NULL);
    printf("%.1f\n", (double)(cpu_ns() - begun) / count / threads);
    return lives[0].sum < 0;
}

static int ping(int count) {
    int listener = listen_on_loopback();
    int client = connect_to_it(), server = accept_one(listener), off = 1;
    if (setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off) < 0 ||
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off) < 0)
        die("TCP_NODELAY");
    uint64_t begun = cpu_ns();
    for (int i = 0; i < count; i++) {
        char byte = 'x';
        if (send(client, &byte, 1, 0) != 1 || recv(server, &byte, 1, 0) != 1 ||
            send(server, &byte, 1, 0) != 1 || recv(client, &byte, 1, 0) != 1)
            die("ping");
    }
    printf("%.1f\n", (double)(cpu_ns() - begun) / count);
    return 0;
}

static int receive(int count) {
    int listener = listen_on_loopback();
    int client = connect_to_it(), server = accept_one(listener);
    char bytes[4096] = {0};
    for (int done = 0; done < count;) {
        int part = count - done < 4096 ? count - done : 4096;
        if (send(client, bytes, (size_t)part, 0) != part)
            die("send");
        for (int i = 0; i < part; i++)
            if (recv(server, bytes, 1, 0) != 1)
                die("recv");
        done += part;
    }
    return 0;
}

static void allow_files(int count) {
    struct rlimit limit = {(rlim_t)count, (rlim_t)count};
    struct rlimit now;
    if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur < limit.rlim_cur &&
        setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

static int wait_for_a_line(void) {
    puts("ready");
    fflush(stdout);
    return getchar() == EOF;
}

// Accepts through as many frames as `site` has bits, each of one of two functions: different sites
// are different stacks.
typedef int accept_function(int site, int bits, int listener);
static int accept_zero(int site, int bits, int listener);
static int accept_one_bit(int site, int bits, int listener);

__attribute__((noinline)) static int accept_by(int site, int bits, int listener) {
    if (bits == 0)
        return accept_one(listener);
    accept_function *next = site & 1 ? accept_one_bit : accept_zero;
    return next(site >> 1, bits - 1, listener);
}

__attribute__((noinline)) static int accept_zero(int site, int bits, int listener) {
    volatile int fd = accept_by(site, bits, listener); // volatile: else it is a jump
    return fd;
}

__attribute__((noinline)) static int accept_one_bit(int site, int bits, int listener) {
    volatile int fd = accept_by(site, bits, listener);
    return fd + 0 * bits;
}

static int bits_of(int sites) {
    int bits = 0;
    while (1 << bits < sites)
        bits++;
    return bits;
}

static int keep_open(int count, int sites) {
    allow_files(2 * count + 64);
    int listener = listen_on_loopback();
    for (int i = 0; i < count; i++) {
        connect_to_it();
        accept_by(i % sites, bits_of(sites), listener);
    }
    return wait_for_a_line();
}

static int leak(int count, int sites) {
    allow_files(count + 64);
    int listener = listen_on_loopback();
    for (int i = 0; i < count; i++) {
        char byte;
        int client = connect_to_it();
        int server = accept_by(i % sites, bits_of(sites), listener);
        close(client);
        if (recv(server, &byte, 1, 0) != 0)
            die("leak");
    }
    printf("%llu\n", (unsigned long long)now_ns());
    fflush(stdout);
    return 0;
}

// --- the soak -----------------------------------------------------------------------------------

static int soak_listener, soak_count;

// One connection to one of many loopback addresses: no four-tuple is needed again while the last
// one that had it is in TIME_WAIT.
static void soak_one(void) {
    struct sockaddr_in to = address;
    char byte;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(soak_count++ % 250));
    int client = connect_to(&to);
    int server = accept_one(soak_listener);
    close(client);
    if (recv(server, &byte, 1, 0) != 0)
        die("soak");
    close(server);
}

static long pss_kb(void) {
    char line[256];
    long kb = -1;
    FILE *rollup = fopen("/proc/self/smaps_rollup", "r");
    while (rollup && fgets(line, sizeof line, rollup))
        if (sscanf(line, "Pss: %ld", &kb) == 1)
            break;
    if (rollup)
        fclose(rollup);
    return kb;
}

static int soak(int count, char **plugins, int parts) {
    soak_listener = listen_on_loopback();
    for (int part = 0; part < parts; part++) {
        void *plugin = dlopen(plugins[part], RTLD_NOW | RTLD_LOCAL);
        void (*call)(int, void (*)(void)) =
            plugin ? (void (*)(int, void (*)(void)))(uintptr_t)dlsym(plugin, "plugin_call") : NULL;
        if (!call) {
            fprintf(stderr, "workload: %s\n", dlerror());
            return 1;
        }
        for (int i = 0; i < count / parts; i += 2) {
            soak_one();
            call(i / 2, soak_one);
        }
        dlclose(plugin);
        printf("%d %ld\n", soak_count, pss_kb());
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int count = argc > 2 ? atoi(argv[2]) : 0;
    int third = argc > 3 ? atoi(argv[3]) : 0;
    if (strcmp(what, "life") == 0)
        return life(count, third, argc > 4 ? atoi(argv[4]) : 1, argc > 5 ? atoi(argv[5]) : 0);
    if (strcmp(what, "ping") == 0)
        return ping(count);
    if (strcmp(what, "recv") == 0)
        return receive(count);
    if (strcmp(what, "idle") == 0)
        return wait_for_a_line();
    if (strcmp(what, "open") == 0)
        return keep_open(count, third ? third : 1);
    if (strcmp(what, "leak") == 0)
        return leak(count, third ? third : 1);
    if (strcmp(what, "soak") == 0)
        return soak(count, argv + 3, argc - 3);
    fprintf(stderr, "workload: '%s' is not life, ping, recv, idle, open, leak or soak\n", what);
    return 2;
}
