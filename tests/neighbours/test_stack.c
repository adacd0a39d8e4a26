// How much of the caller's stack a hook needs, measured: at most 8 KB, so that programs with small
// thread stacks (64 KB, musl's habit; less in embedded ones) and with a signal stack of SIGSTKSZ
// can go on as they are.
//
// Each event runs on a painted stack of its own. The lowest byte that lost its paint tells the
// depth, from the frame that makes the call: libc's and the loader's own part counts, too.
#include "base/sys.h"
#include "rig.h"
#include <dlfcn.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum {
    STACK_BYTES = 256 << 10,
    LIMIT_BYTES = 8 << 10,
    PAINT = 0x5a
};

static char *stack;
static uintptr_t *started; // frame of the function that makes the call; shared with children
static ucontext_t caller, painted;
static void (*event)(void);

static void enter(void) {
    *started = (uintptr_t)__builtin_frame_address(0);
    event();
}

static long depth_bytes(void) {
    const char *lowest = stack;
    while (*lowest == PAINT)
        lowest++;
    return (long)(*started - (uintptr_t)lowest);
}

static void on_painted_stack(void (*what)(void)) {
    memset(stack, PAINT, STACK_BYTES);
    event = what;
    getcontext(&painted);
    painted.uc_stack.ss_sp = stack;
    painted.uc_stack.ss_size = STACK_BYTES;
    painted.uc_link = &caller;
    makecontext(&painted, enter, 0);
    swapcontext(&caller, &painted);
}

// --- events -------------------------------------------------------------------------------------

static int listener, client, server, result;
static char byte;

static void open_socket(void) {
    listener = socket(AF_INET, SOCK_STREAM, 0);
}

static void open_client(void) {
    client = socket(AF_INET, SOCK_STREAM, 0);
}

static void connect_client(void) {
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &bytes);
    result = connect(client, (struct sockaddr *)&address, bytes);
}

static void accept_client(void) {
    server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static void close_client(void) {
    result = close(client);
}

static void read_the_end(void) {
    result = (int)read(server, &byte, 1);
}

static void duplicate(void) {
    result = dup2(server, 50);
}

static void close_many(void) {
    result = close_range(50, ~0u, 0);
}

static void shut_down(void) {
    result = shutdown(server, SHUT_WR);
}

static void set_action(void) {
    signal(SIGTERM, SIG_DFL);
}

static void fork_child(void) {
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, &result, 0);
}

static void report_signal(void) {
    raise(SIGUSR1);
}

static void leave(void) {
    exit(0);
}

static void leave_at_once(void) {
    _exit(0);
}

// The plugin's frames are new to the unwinder: its slow path.
static int (*plugin_socket)(void);

static void open_socket_in_a_plugin(void) {
    result = plugin_socket();
}

// --- the scenario -------------------------------------------------------------------------------

static void measure(const char *name, void (*what)(void)) {
    on_painted_stack(what);
    printf("%s: %ld\n", name, depth_bytes());
    fflush(stdout);
}

static void leak(void) {
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    recv(pair.server, &byte, 1, 0);
}

// In a child, on a stack that this process can look at afterwards.
static void measure_end(const char *name, void (*what)(void)) {
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        leak();
        on_painted_stack(what);
    }
    waitpid(pid, &result, 0);
    printf("%s: %ld\n", name, depth_bytes());
    fflush(stdout);
}

static void nothing(int number) {
    (void)number;
}

static int all_events(void) {
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    started = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGUSR1, nothing);
    measure("first socket", open_socket);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 5) != 0)
        return 1;
    measure("socket", open_client);
    measure("connect", connect_client);
    measure("accept4", accept_client);
    measure("close", close_client);
    rig_wait_state(server, 8 /* CLOSE_WAIT */, 0);
    measure("read of the end", read_the_end);
    measure("dup2", duplicate);
    measure("close_range", close_many);
    measure("shutdown", shut_down);
    measure("signal", set_action);
    measure("fork", fork_child);
    leak();
    measure("SIGUSR1", report_signal);
    const char *plugin = getenv("PLUGIN");
    void *library = plugin ? dlopen(plugin, RTLD_NOW | RTLD_LOCAL) : NULL;
    plugin_socket = library ? (int (*)(void))dlsym(library, "plugin_socket") : NULL;
    if (plugin_socket)
        measure("socket in a plugin", open_socket_in_a_plugin);
    measure_end("exit", leave);
    measure_end("_exit", leave_at_once);
    return 0;
}

static const struct rig_scenario scenarios[] = {{"all_events", all_events}};

// --- the claims ---------------------------------------------------------------------------------

static long depth_in(const char *out, const char *name) {
    char line[64];
    snprintf(line, sizeof line, "%s: ", name);
    const char *at = strstr(out, line);
    return at ? strtol(at + strlen(line), NULL, 10) : -1;
}

// What a report writes is measured, too: there is a leak to be told at each.
static void assert_shallow(const char *options) {
    static struct rig_result bare, with;
    rig_run(&bare, "all_events", BARE, NULL);
    rig_run(&with, "all_events", PRELOADED, options);
    assert_int_equal(bare.status, 0);
    assert_int_equal(with.status, 0);
    print_message("bytes of stack, with %s:\n%s", options ? options : "no options", with.out);
    unsigned lines = 0;
    for (char *line = strtok(with.out, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        *strchr(line, ':') = '\0';
        long depth = strtol(line + strlen(line) + 2, NULL, 10);
        // A signal's frame is the kernel's (sigaltstack(2): several KB on some processors), and
        // lies there bare, too.
        if (strcmp(line, "SIGUSR1") == 0)
            depth -= depth_in(bare.out, "SIGUSR1");
        if (depth <= 0 || depth > LIMIT_BYTES)
            print_error("%s takes %ld bytes\n", line, depth);
        assert_in_range(depth, 1, LIMIT_BYTES);
    }
    assert_int_equal(lines, rig_count(bare.out, "\n"));
    assert_true(lines >= 15);
}

static void a_hook_takes_at_most_8_kb(void **state) {
    (void)state;
    assert_shallow(NULL);
}

static void with_bad_options_and_a_log_a_hook_takes_at_most_8_kb(void **state) {
    (void)state;
    char options[128], dir[] = "/tmp/sockleak-test-XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    snprintf(options, sizeof options, "nonsense=1:log_path=%s/%%p:stack_depth=128", dir);
    assert_shallow(options);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

static void with_a_ledger_file_a_hook_takes_at_most_8_kb(void **state) {
    (void)state;
    char options[128], dir[] = "/tmp/sockleak-test-XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    snprintf(options, sizeof options, "ledger_dir=%s:verbosity=1", dir);
    assert_shallow(options);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

static void name_plugin(void) {
    char path[PATH_MAX];
    const char *library = rig_library();
    snprintf(path, sizeof path, "%.*s/faults/plugin.so", (int)(strrchr(library, '/') - library),
             library);
    setenv("PLUGIN", path, 1);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    name_plugin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hook_takes_at_most_8_kb),
        cmocka_unit_test(with_bad_options_and_a_log_a_hook_takes_at_most_8_kb),
        cmocka_unit_test(with_a_ledger_file_a_hook_takes_at_most_8_kb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
