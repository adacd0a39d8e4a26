// Programs that live with less than usual: plugins past our hooks, 64 KB of stack, a small signal
// stack, a seccomp filter from before, cancellation in our wrappers.
#include "base/sys.h"
#include "rig.h"
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

__attribute__((noinline)) static int leak_here(void) { // by its name in a report
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    printf("recv %ld\n", (long)recv(pair.server, &byte, 1, 0));
    return pair.server;
}

// --- RTLD_DEEPBIND ------------------------------------------------------------------------------

static int deepbind(void) {
    const char *path = getenv("PLUGIN");
    void *plugin = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : NULL;
    int (*plugin_open)(void) = plugin ? (int (*)(void))dlsym(plugin, "plugin_open") : NULL;
    void (*plugin_close)(int) = plugin ? (void (*)(int))dlsym(plugin, "plugin_close") : NULL;
    if (!plugin_open || !plugin_close)
        return RIG_SKIPPED; // sanitizers forbid it
    int own = socket(AF_INET, SOCK_STREAM, 0), theirs = plugin_open();
    printf("fds %d %d\n", own, theirs);
    plugin_close(own);                                     // ours, closed behind our back
    printf("again %d\n", socket(AF_INET, SOCK_STREAM, 0)); // the same number
    close(theirs);                                         // theirs, which we never saw
    leak_here();
    return 3;
}

// --- small stacks -------------------------------------------------------------------------------

static void *leak_in_thread(void *unused) {
    leak_here();
    exit(4);
    return unused;
}

static int small_thread(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    if (pthread_create(&thread, &attributes, leak_in_thread, NULL) != 0)
        return 1;
    pthread_join(thread, NULL);
    return 1;
}

static void leak_in_handler(int number) {
    (void)number;
    int listener = rig_listen(), client = rig_quiet_connect(listener);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    char byte;
    sys_close(client);
    rig_wait_state(server, 8 /* CLOSE_WAIT */, 0);
    if (recv(server, &byte, 1, 0) != 0)
        _exit(1);
}

// The first socket of the process is opened there: dlopen, and a first backtrace. The kernel's
// frame lies on it, too (getauxval(3), AT_MINSIGSTKSZ).
static int signal_stack(void) {
    static char memory[32 << 10];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    struct sigaction action = {.sa_handler = leak_in_handler, .sa_flags = SA_ONSTACK};
    if (sigaltstack(&stack, NULL) != 0 || sigaction(SIGUSR2, &action, NULL) != 0)
        return 1;
    raise(SIGUSR2);
    raise(SIGUSR2);
    return 5;
}

// --- cancellation -------------------------------------------------------------------------------

static void cleaned(void *name) {
    printf("cleaned up in %s\n", (char *)name);
}

static void *wait_in_read(void *fds) {
    char byte;
    pthread_cleanup_push(cleaned, (char *)"read");
    if (read(*(int *)fds, &byte, 1) == 0)
        puts("not cancelled");
    pthread_cleanup_pop(0);
    return NULL;
}

static void *wait_in_accept(void *listener) {
    pthread_cleanup_push(cleaned, (char *)"accept");
    accept(*(int *)listener, NULL, NULL);
    pthread_cleanup_pop(0);
    return NULL;
}

static int cancellation(void) {
    struct rig_tcp pair = rig_tcp_pair();
    int listener = rig_listen();
    void *results[2];
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, wait_in_read, &pair.server);
    pthread_create(&threads[1], NULL, wait_in_accept, &listener);
    for (int i = 0; i < 2; i++) {
        pthread_cancel(threads[i]);
        pthread_join(threads[i], &results[i]);
        printf("cancelled: %d\n", results[i] == PTHREAD_CANCELED);
    }
    leak_here();
    return 6;
}

// --- seccomp ------------------------------------------------------------------------------------

// A filter that was there before the program, as a container's is: `number` fails with `error`
// where the program itself does not use it.
static int under_filter(int number, int error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    char byte;
    // Not by libc's prctl: the library would see a sandbox, and keep still.
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        sys_call(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter, 0, 0, 0) != 0)
        return RIG_SKIPPED;
    int listener = rig_listen(), client = rig_quiet_connect(listener);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    sys_close(client);
    printf("fds %d %d, recv %ld\n", listener, server, (long)recv(server, &byte, 1, 0));
    printf("close %d\n", close(listener));
    return 7;
}

static int no_memfd(void) {
    return under_filter(SYS_memfd_create, EPERM);
}

static int no_fallocate(void) {
    return under_filter(SYS_fallocate, EPERM);
}

static int no_openat(void) {
    return under_filter(SYS_openat, EACCES);
}

static int no_getsockopt(void) {
    return under_filter(SYS_getsockopt, EPERM);
}

static int no_madvise(void) {
    return under_filter(SYS_madvise, ENOSYS);
}

static int no_prlimit(void) {
    return under_filter(SYS_prlimit64, ENOSYS);
}

static int no_pwritev2(void) {
    return under_filter(SYS_pwritev2, ENOSYS);
}

// --- frames of any shape ------------------------------------------------------------------------

// Sockets from one place on the stack, below frames that have left there what nobody has written.
enum {
    ROUNDS = 600,
    FRAMES = 5
};

typedef void frame_function(unsigned shape, int frames);

static volatile int frames_left; // work behind each call, which else would be a jump

static __attribute__((noinline)) void open_and_close(void) {
    close(socket(AF_INET, SOCK_STREAM, 0));
    frames_left--;
}

static frame_function small_frame, large_frame;

static void next_frame(unsigned shape, int frames) {
    if (frames == 0)
        open_and_close();
    else
        (shape & 1 ? small_frame : large_frame)(shape >> 1, frames - 1);
    frames_left--;
}

static __attribute__((noinline)) void small_frame(unsigned shape, int frames) {
    next_frame(shape, frames);
    frames_left--;
}

static __attribute__((noinline)) void large_frame(unsigned shape, int frames) {
    char unwritten[80];
    __asm__ volatile("" : : "r"(unwritten));
    next_frame(shape, frames);
    frames_left--;
}

static int any_frames(void) {
    for (unsigned i = 0; i < ROUNDS; i++)
        next_frame(i / 3 % (1u << FRAMES), FRAMES); // each more than twice: it is remembered
    leak_here();
    return 9;
}

static const struct rig_scenario scenarios[] = {
    {"deepbind", deepbind},         {"small_thread", small_thread},
    {"signal_stack", signal_stack}, {"cancellation", cancellation},
    {"no_memfd", no_memfd},         {"no_fallocate", no_fallocate},
    {"no_openat", no_openat},       {"no_getsockopt", no_getsockopt},
    {"no_madvise", no_madvise},     {"no_prlimit", no_prlimit},
    {"no_pwritev2", no_pwritev2},   {"any_frames", any_frames},
};

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    return 2;
}
