#include "unit.h"
#include "../scratch.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    EXIT_SKIPPED = 77
};

static void become_child(void) {
    // cmocka fails by longjmp into its loop, which the child must not go on with; and it catches
    // crashes, which are to be seen.
    setenv("CMOCKA_TEST_ABORT", "1", 1);
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++)
        signal(crashes[i], SIG_DFL);
}

int child_status(void (*body)(void *), void *context) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        become_child();
        body(context);
        fflush(NULL);
        _exit(0);
    }
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

void child_must_pass(void (*body)(void *), void *context) {
    int status = child_status(body, context);
    if (WIFSIGNALED(status))
        fail_msg("a child of the test died of signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == EXIT_SKIPPED)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void call(void *body) {
    ((void (*)(void))body)();
}

void isolated_run(void (*body)(void)) {
    child_must_pass(call, (void *)body);
}

void isolated_skip(const char *reason) {
    printf("skipped: %s\n", reason);
    fflush(stdout);
    _exit(EXIT_SKIPPED);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) // gcc's
#define IS_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) // clang's
#define IS_SANITIZED
#endif
#endif

void needs_addresses_of_its_own(void) {
#ifdef IS_SANITIZED
    isolated_skip("a sanitizer's shadow memory takes terabytes of addresses, and is not locked");
#endif
}

void lock_memory(void) {
    needs_addresses_of_its_own();
    size_t bytes = (size_t)1 << 30; // more than any test reserves
    void *probe = MAP_FAILED;
    if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0)
        probe = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (probe == MAP_FAILED)
        isolated_skip("memory cannot be locked without a limit: not permitted here");
    munmap(probe, bytes);
}

void own_mounts(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        isolated_skip("no mount namespace of its own: not permitted here");
}

const char *scratch_directory(void) {
    const char *path = scratch_make();
    assert_non_null(path);
    return path;
}

void write_file(const char *path, const void *bytes, size_t len_bytes) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len_bytes), len_bytes);
    close(fd);
}

long read_file(const char *path, char *out, size_t size_bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t len = read(fd, out, size_bytes - 1);
    close(fd);
    out[len > 0 ? len : 0] = '\0';
    return len;
}
