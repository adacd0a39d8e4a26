// What runs before us: the constructor of a library that opens a socket or registers with fork, and
// a program that makes a child in its own memory before it opens its first socket.
#include "ledger_view.h"
#include "rig.h"
#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// Preloaded behind us, so that its constructor runs before ours.
static const char early_source[] =
    "#include <pthread.h>\n"
    "#include <stdlib.h>\n"
    "#include <sys/socket.h>\n"
    "#include <unistd.h>\n"
    "int early_fd = -1, close_in_child = -1;\n"
    "static void child(void) { if (close_in_child >= 0) close(close_in_child); }\n"
    "__attribute__((constructor)) static void early(void) {\n"
    "    pthread_atfork(NULL, NULL, child);\n"
    "    if (getenv(\"EARLY_SOCKET\")) early_fd = socket(AF_INET, SOCK_STREAM, 0);\n"
    "}\n";

static char directory[] = "/tmp/sockleak-begin-XXXXXX";
static struct rig_result result;

static int *early_variable(const char *name) {
    return dlsym(RTLD_DEFAULT, name);
}

// --- scenarios ----------------------------------------------------------------------------------

static int look_at_the_early_socket(void) {
    const struct ledger_record *record = view_record(*early_variable("early_fd"));
    printf("tracked %d, frames %d\n", record != NULL,
           record && record->birth_stack ? (int)view_stack(record->birth_stack)->depth : 0);
    fflush(stdout);
    raise(SIGUSR2); // the report signal of this test's options
    return 0;
}

static int close_in_an_earlier_atfork_handler(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    *early_variable("close_in_child") = fd;
    pid_t pid = fork();
    if (pid == 0)
        _exit(view_ledger()->counters.closed == 1 && !view_record(fd) ? 0 : 1);
    int status = 0;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static int do_nothing(void *unused) {
    (void)unused;
    return 0;
}

static bool is_followed(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return view_ledger() && view_ledger()->pid == (uint32_t)getpid() && view_is_tracked(fd);
}

static void make_child_in_our_memory(void) {
    static char stack[64 << 10] __attribute__((aligned(16)));
    waitpid(clone(do_nothing, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL), NULL, 0);
}

static int socket_after_clone(void) {
    make_child_in_our_memory();
    return is_followed() ? 0 : 1;
}

static int socket_in_a_fork_after_clone(void) {
    make_child_in_our_memory();
    pid_t pid = fork();
    if (pid == 0)
        _exit(is_followed() ? 0 : 1);
    int status = 0;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static const struct rig_scenario scenarios[] = {
    {"early_socket", look_at_the_early_socket},
    {"early_atfork", close_in_an_earlier_atfork_handler},
    {"clone_first", socket_after_clone},
    {"clone_and_fork_first", socket_in_a_fork_after_clone},
};

// --- tests --------------------------------------------------------------------------------------

static int make_early_library(void **state) {
    (void)state;
    char path[PATH_MAX], command[3 * PATH_MAX];
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/early.c", directory);
    FILE *source = fopen(path, "w");
    if (!source || fputs(early_source, source) < 0 || fclose(source) != 0)
        return -1;
    const char *cc = getenv("CC");
    snprintf(command, sizeof command, "%s -shared -fPIC -o %s/early.so %s", cc ? cc : "cc",
             directory, path);
    return system(command) == 0 ? 0 : -1;
}

static int remove_directory(void **state) {
    (void)state;
    char command[PATH_MAX];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static void run_behind_early(const char *scenario, const char *options) {
    char self[PATH_MAX] = "", preload[2 * PATH_MAX];
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s:%s/early.so", rig_library(), directory);
    char *argv[] = {(char *)"env", preload, self, (char *)"--scenario", (char *)(uintptr_t)scenario,
                    NULL};
    rig_command(&result, argv, BARE, options);
}

static void a_socket_of_an_earlier_constructor_has_a_stack_and_the_options_hold(void **state) {
    (void)state;
    setenv("EARLY_SOCKET", "1", 1);
    run_behind_early("early_socket", "signal=USR2:stack_depth=1");
    unsetenv("EARLY_SOCKET");
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "tracked 1, frames 1\n");
    assert_int_equal(rig_count(result.err, "at SIGUSR2 in"), 1);
}

static unsigned ledgers_in(const char *path) {
    unsigned count = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += strstr(entry->d_name, ".ledger") != NULL;
    closedir(dir);
    return count;
}

static void a_hook_in_an_earlier_atfork_handler_begins_the_childs_only_ledger(void **state) {
    (void)state;
    char options[PATH_MAX];
    snprintf(options, sizeof options, "ledger_dir=%s", directory);
    run_behind_early("early_atfork", options);
    assert_int_equal(result.status, 0);
    assert_int_equal(ledgers_in(directory), 2); // the parent's and the child's
}

static void a_clone_in_our_memory_before_the_first_socket_turns_nothing_off(void **state) {
    (void)state;
    assert_int_equal(rig_run(&result, "clone_first", PRELOADED, NULL)->status, 0);
    assert_int_equal(rig_run(&result, "clone_and_fork_first", PRELOADED, NULL)->status, 0);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_socket_of_an_earlier_constructor_has_a_stack_and_the_options_hold),
        cmocka_unit_test(a_hook_in_an_earlier_atfork_handler_begins_the_childs_only_ledger),
        cmocka_unit_test(a_clone_in_our_memory_before_the_first_socket_turns_nothing_off),
    };
    return cmocka_run_group_tests(tests, make_early_library, remove_directory);
}
