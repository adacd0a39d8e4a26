// exec*, posix_spawn*, system and popen pass through the library: results, errno, arguments and
// descriptors are the same as bare, with a ledger directory and without; and the ledger says that
// an exec is under way only while it is.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// --- results ------------------------------------------------------------------------------------

// Volatile: what the compiler does not know to be wrong.
static const char *volatile bad_pointer = (const char *)8;

static const char *hostile_path(int kind) {
    static char long_path[9000];
    memset(long_path, 'x', sizeof long_path - 1);
    const char *const paths[] = {"/nonexistent/program",
                                 "/etc/passwd",
                                 "/dev/null",
                                 "/",
                                 "/etc/passwd/program",
                                 "",
                                 ".",
                                 bad_pointer,
                                 long_path};
    return kind < (int)(sizeof paths / sizeof *paths) ? paths[kind] : NULL;
}

static void show(const char *call, int kind, int result) {
    printf("%s %d: %d %s\n", call, kind, result, result ? strerrorname_np(errno) : "");
    errno = 0;
}

static void fail_each_way(int kind) {
    const char *path = hostile_path(kind);
    char *argv[] = {(char *)(uintptr_t) "program", NULL};
    pid_t pid;
    show("execve", kind, execve(path, argv, environ));
    show("execv", kind, execv(path, argv));
    show("execl", kind, execl(path, "program", "1", (char *)NULL));
    show("execle", kind, execle(path, "program", (char *)NULL, environ));
    show("execveat", kind, execveat(AT_FDCWD, path, argv, environ, 0));
    show("SYS_execve", kind, (int)syscall(SYS_execve, path, argv, environ));
    errno = posix_spawn(&pid, path, NULL, NULL, argv, environ);
    show("posix_spawn", kind, errno);
    if (path == bad_pointer)
        return; // the C library looks into these itself
    show("execvp", kind, execvp(path, argv));
    show("execvpe", kind, execvpe(path, argv, environ));
    show("execlp", kind, execlp(path, "program", (char *)NULL));
    errno = posix_spawnp(&pid, path, NULL, NULL, argv, environ);
    show("posix_spawnp", kind, errno);
}

static int run_failures(void) {
    char *argv[] = {(char *)(uintptr_t) "program", NULL};
    for (int kind = 0; hostile_path(kind); kind++)
        fail_each_way(kind);
    show("fexecve", 0, fexecve(-1, argv, environ));
    show("fexecve", 1, fexecve(open("/", O_RDONLY | O_CLOEXEC), argv, environ));
    show("execveat", 100, execveat(77, "program", argv, environ, 0));
    show("execveat", 101, execveat(77, "", argv, environ, AT_EMPTY_PATH));
    show("execve of a bad environment", 0,
         execve("/bin/true", argv, (char *const *)(uintptr_t)bad_pointer));
    char *bad[] = {(char *)(uintptr_t)bad_pointer, NULL};
    show("execve of a bad environment", 1, execve("/bin/true", argv, bad));
    // A variable without an end, in front of memory that is not there.
    enum {
        PAGE = 4096
    };
    char *pages =
        mmap(NULL, (size_t)2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + PAGE, PAGE);
    static const char front[] = "LD_PRELOAD=/";
    for (size_t len = 1; len < sizeof front; len++) {
        memcpy(pages + PAGE - len, front, len);
        bad[0] = pages + PAGE - len;
        show("execve of an endless variable", (int)len, execve("/bin/true", argv, bad));
    }
    return 0;
}

// A FIFO's writer would go on if it were opened: it may be executed, and is not a program.
static int run_fifo(void) {
    char path[] = "/tmp/sockleak-fifo-XXXXXX", events[4096];
    char *argv[] = {(char *)(uintptr_t) "program", NULL};
    if (!mkdtemp(path))
        return 1;
    int dir = open(path, O_RDONLY | O_DIRECTORY);
    mkfifoat(dir, "fifo", 0700);
    int watch = inotify_init1(IN_NONBLOCK);
    inotify_add_watch(watch, path, IN_OPEN);
    show("execveat of a FIFO", 0, execveat(dir, "fifo", argv, environ, 0));
    show("events", 0, (int)read(watch, events, sizeof events));
    unlinkat(dir, "fifo", 0);
    rmdir(path);
    return 0;
}

// --- what the next image gets -------------------------------------------------------------------

#define SHOW_ALL "printf '%s\\n' \"$0\" \"$@\"; echo $A$B; exec ls -l /proc/self/fd | wc -l"

static void wait_for_child(pid_t pid) {
    int status;
    waitpid(pid, &status, 0);
    printf("status %x\n", (unsigned)status);
    fflush(stdout);
}

#define IN_CHILD(how, call)                                                                        \
    do {                                                                                           \
        fflush(stdout);                                                                            \
        pid_t child_ = how();                                                                      \
        if (child_ == 0) {                                                                         \
            call;                                                                                  \
            _exit(errno);                                                                          \
        }                                                                                          \
        wait_for_child(child_);                                                                    \
    } while (0)

static int run_images(void) {
    char *argv[] = {(char *)(uintptr_t) "zero",  (char *)(uintptr_t) "-c",
                    (char *)(uintptr_t)SHOW_ALL, (char *)(uintptr_t) "name",
                    (char *)(uintptr_t) "one",   NULL};
    setenv("A", "set", 1);
    char *environment[] = {(char *)(uintptr_t) "B=other", getenv("PATH") - strlen("PATH="), NULL};
    IN_CHILD(fork, execl("/bin/sh", "zero", "-c", SHOW_ALL, "name", "1", "", "3", (char *)NULL));
    IN_CHILD(vfork, execlp("sh", "zero", "-c", SHOW_ALL, "name", (char *)NULL));
    IN_CHILD(vfork, execle("/bin/sh", "zero", "-c", SHOW_ALL, "n", "2", (char *)NULL, environment));
    IN_CHILD(fork, execve("/bin/sh", argv, environment));
    IN_CHILD(vfork, execvpe("sh", argv, environment));
    IN_CHILD(fork, execv("/bin/sh", argv));
    IN_CHILD(fork, execvp("sh", argv));
    IN_CHILD(fork, fexecve(open("/bin/sh", O_RDONLY | O_CLOEXEC), argv, environment));
    IN_CHILD(vfork, syscall(SYS_execve, "/bin/sh", argv, environment));
    pid_t pid;
    printf("%d\n", posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environment));
    wait_for_child(pid);
    printf("%d\n", posix_spawnp(&pid, "sh", NULL, NULL, argv, environment));
    wait_for_child(pid);
    printf("%x %x\n", system("exit 3"), system(NULL) != 0);
    printf("%x\n", pclose(popen("exit 4", "r")));
    return 0;
}

// What the C library runs by the shell, since it has no #! line.
static int run_plain_script(void) {
    char path[] = "/tmp/sockleak-script-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    dprintf(fd, "echo script $1\n");
    fchmod(fd, 0755);
    close(fd);
    char *argv[] = {path, (char *)(uintptr_t) "argument", NULL};
    IN_CHILD(fork, execvp(path, argv));
    IN_CHILD(fork, execlp(path, path, "argument", (char *)NULL));
    IN_CHILD(fork, execv(path, argv)); // ENOEXEC
    pid_t pid;
    printf("%d\n", posix_spawnp(&pid, path, NULL, NULL, argv, environ));
    unlink(path);
    return 0;
}

// With no descriptor left nothing can be looked at, and the exec works all the same.
static int run_without_descriptors(void) {
    struct rlimit none = {3, 3};
    setrlimit(RLIMIT_NOFILE, &none);
    IN_CHILD(vfork, execl("/bin/true", "true", (char *)NULL));
    return 0;
}

static int run_many_arguments(void) {
    enum {
        BYTES = 100000
    };
    char *big = malloc(BYTES);
    memset(big, 'y', BYTES - 1);
    big[BYTES - 1] = '\0';
    IN_CHILD(fork, execlp("sh", "sh", "-c", "echo ${#1} ${#12}", "name", big, "2", "3", "4", "5",
                          "6", "7", "8", "9", "10", "11", big, (char *)NULL));
    return 0;
}

static void same(const char *scenario) {
    rig_assert_same_as_bare(scenario, "", NULL);
    rig_assert_same_as_bare(scenario, rig_ledger_options(NULL), NULL);
}

static void failures_are_the_same_as_bare(void **state) {
    (void)state;
    same("failures");
}

static void what_is_no_program_is_not_opened(void **state) {
    (void)state;
    same("fifo");
}

static void the_next_image_gets_the_same_as_bare(void **state) {
    (void)state;
    same("images");
}

static void a_script_without_an_interpreter_is_run_by_the_shell(void **state) {
    (void)state;
    same("plain script");
}

static void an_exec_without_descriptors_works(void **state) {
    (void)state;
    same("without descriptors");
}

static void long_arguments_arrive(void **state) {
    (void)state;
    same("many arguments");
}

// --- the ledger ---------------------------------------------------------------------------------

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                         \
            fflush(stdout);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static int run_failed_exec(void) {
    close(socket(AF_INET, SOCK_STREAM, 0));
    execl("/nonexistent/program", "program", (char *)NULL);
    CHECK(view_ledger()->exec_ns == 0);
    return 0;
}

static int run_exec_in_vfork(void) {
    close(socket(AF_INET, SOCK_STREAM, 0));
    uint32_t forks = view_ledger()->forks;
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(9);
    }
    CHECK(pid > 0 && view_ledger()->exec_ns == 0);
    CHECK(view_ledger()->forks == forks + 1);
    waitpid(pid, NULL, 0);
    char *argv[] = {(char *)(uintptr_t) "true", NULL};
    CHECK(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) == 0);
    waitpid(pid, NULL, 0);
    CHECK(posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0);
    waitpid(pid, NULL, 0);
    CHECK(view_ledger()->forks == forks + 3);
    CHECK(system("true") == 0 && pclose(popen("true", "r")) == 0);
    CHECK(view_ledger()->forks == forks + 5 && view_ledger()->exec_ns == 0);
    return 0;
}

// The ledger's pages are the file's: the next image reads there what this one wrote before it went.
static int run_reads_last_ledger(void) {
    DIR *dir = opendir(getenv("LEDGER_DIR"));
    const struct dirent *entry;
    static struct ledger_header header;
    while ((entry = readdir(dir)))
        if (strstr(entry->d_name, ".ledger")) {
            int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
            CHECK(read(fd, &header, sizeof header) == sizeof header);
            CHECK(header.pid == (uint32_t)getpid() && header.exec_ns >= header.created_ns);
            struct ledger_record records[3];
            uint64_t offset = header.regions[LEDGER_RECORDS].offset;
            CHECK(pread(fd, records, sizeof records, (off_t)offset) == sizeof records);
            CHECK(records[1].snapshot.properties_known & PROPERTY_NO_CLOEXEC);
            CHECK(records[1].snapshot.properties & PROPERTY_NO_CLOEXEC);
            CHECK(records[2].snapshot.properties_known & PROPERTY_NO_CLOEXEC);
            CHECK(!(records[2].snapshot.properties & PROPERTY_NO_CLOEXEC));
            return 0;
        }
    CHECK(!"a ledger");
    return 1;
}

static void *sleep_on(void *unused) {
    pause();
    return unused;
}

static int run_exec_beside_threads(void) {
    pthread_t thread;
    socket(AF_INET, SOCK_STREAM, 0);
    socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_create(&thread, NULL, sleep_on, NULL);
    execl("/proc/self/exe", "self", "--scenario", "reads last ledger", (char *)NULL);
    return 1;
}

static void scenario_succeeds(const char *scenario) {
    static struct rig_result result;
    rig_run(&result, scenario, PRELOADED, rig_ledger_options(NULL));
    rig_empty_directory();
    if (result.status)
        print_error("%s%s", result.out, result.err);
    assert_int_equal(result.status, 0);
}

static void a_failed_exec_is_taken_back(void **state) {
    (void)state;
    scenario_succeeds("failed exec");
}

static void children_count_as_forks_and_exec_nothing_of_the_parents(void **state) {
    (void)state;
    scenario_succeeds("exec in vfork");
}

static void an_exec_says_so_and_which_sockets_it_closes(void **state) {
    (void)state;
    setenv("LEDGER_DIR", rig_directory(), 1);
    scenario_succeeds("exec beside threads");
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {
        {"failures", run_failures},
        {"fifo", run_fifo},
        {"images", run_images},
        {"plain script", run_plain_script},
        {"without descriptors", run_without_descriptors},
        {"many arguments", run_many_arguments},
        {"failed exec", run_failed_exec},
        {"exec in vfork", run_exec_in_vfork},
        {"exec beside threads", run_exec_beside_threads},
        {"reads last ledger", run_reads_last_ledger},
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_are_the_same_as_bare),
        cmocka_unit_test(what_is_no_program_is_not_opened),
        cmocka_unit_test(the_next_image_gets_the_same_as_bare),
        cmocka_unit_test(a_script_without_an_interpreter_is_run_by_the_shell),
        cmocka_unit_test(an_exec_without_descriptors_works),
        cmocka_unit_test(long_arguments_arrive),
        cmocka_unit_test(a_failed_exec_is_taken_back),
        cmocka_unit_test(children_count_as_forks_and_exec_nothing_of_the_parents),
        cmocka_unit_test(an_exec_says_so_and_which_sockets_it_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
