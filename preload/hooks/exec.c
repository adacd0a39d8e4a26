// Programs that this one becomes or starts: exec*, posix_spawn*, system, popen. What glibc calls
// inside itself passes no hook, so each of its doors is one here.
#include "hooks/real.h"
#include "track/programs.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

// --- exec ---------------------------------------------------------------------------------------

static int exec(const char *path, char *const argv[], char *const environment[]) {
    struct program_exec exec = program_exec_begin(
        &(struct program_call){.dir = AT_FDCWD, .path = path, .environment = environment});
    int result = real_execve(path, argv, environment);
    program_exec_failed(&exec);
    return result;
}

EXPORT int execve(const char *path, char *const argv[], char *const environment[]) {
    return exec(path, argv, environment);
}

EXPORT int execv(const char *path, char *const argv[]) {
    struct program_exec exec = program_exec_begin(
        &(struct program_call){.dir = AT_FDCWD, .path = path, .environment = environ});
    int result = real_execv(path, argv);
    program_exec_failed(&exec);
    return result;
}

static int exec_search(const char *file, char *const argv[]) {
    struct program_exec exec = program_exec_begin(
        &(struct program_call){.path = file, .environment = environ, .search = SEARCH_PATH});
    int result = real_execvp(file, argv);
    program_exec_failed(&exec);
    return result;
}

EXPORT int execvp(const char *file, char *const argv[]) {
    return exec_search(file, argv);
}

EXPORT int execvpe(const char *file, char *const argv[], char *const environment[]) {
    struct program_exec exec = program_exec_begin(
        &(struct program_call){.path = file, .environment = environment, .search = SEARCH_PATH});
    int result = real_execvpe(file, argv, environment);
    program_exec_failed(&exec);
    return result;
}

EXPORT int fexecve(int fd, char *const argv[], char *const environment[]) {
    struct program_exec exec = program_exec_begin(&(struct program_call){
        .dir = fd, .path = "", .flags = AT_EMPTY_PATH, .environment = environment});
    int result = real_fexecve(fd, argv, environment);
    program_exec_failed(&exec);
    return result;
}

EXPORT int execveat(int dir, const char *path, char *const argv[], char *const environment[],
                    int flags) {
    struct program_exec exec = program_exec_begin(&(struct program_call){
        .dir = dir, .path = path, .flags = flags, .environment = environment});
    int result = real_execveat(dir, path, argv, environment, flags);
    program_exec_failed(&exec);
    return result;
}

// --- exec with its arguments in the call --------------------------------------------------------

// How many there are before NULL, `first` included. They are counted first: exec must not allocate,
// it is called in children of threads.
static long count_arguments(va_list rest) {
    long count = 1;
    while (va_arg(rest, char *)) // NOLINT(clang-analyzer-valist.Uninitialized): the caller began it
        count++;
    return count;
}

static void take_arguments(char **argv, long count, const char *first, va_list rest) {
    argv[0] = (char *)(uintptr_t)first;
    for (long i = 1; i < count; i++)
        argv[i] = va_arg(rest, char *);
}

// Declares `argv`, with the arguments, their NULL and `more` pointers behind it, on the caller's
// own stack, as the C library does. `first` is the last named parameter.
#define TAKE_ARGUMENTS(argv, count, first, more)                                                   \
    va_list rest;                                                                                  \
    va_start(rest, first);                                                                         \
    long count = count_arguments(rest);                                                            \
    va_end(rest);                                                                                  \
    char **argv = __builtin_alloca(((size_t)count + 1 + (more)) * sizeof *argv);                   \
    va_start(rest, first);                                                                         \
    take_arguments(argv, count + 1 + (more), first, rest);                                         \
    va_end(rest)

EXPORT int execl(const char *path, const char *first, ...) {
    TAKE_ARGUMENTS(argv, count, first, 0);
    return exec(path, argv, environ);
}

EXPORT int execlp(const char *file, const char *first, ...) {
    TAKE_ARGUMENTS(argv, count, first, 0);
    return exec_search(file, argv);
}

EXPORT int execle(const char *path, const char *first, ...) {
    TAKE_ARGUMENTS(argv, count, first, 1);
    return exec(path, argv, (char *const *)(void *)argv[count + 1]);
}

// --- children -----------------------------------------------------------------------------------

static pid_t spawned(int error, const pid_t *pid) {
    return error == 0 ? *pid : -1;
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const argv[],
                       char *const environment[]) {
    struct program_call call = {.dir = AT_FDCWD, .path = path, .environment = environment};
    struct program program;
    pid_t child;
    program_spawn_begin(&call, actions != NULL, &program);
    int error = real_posix_spawn(pid ? pid : &child, path, actions, attributes, argv, environment);
    program_spawn_done(&program, spawned(error, pid ? pid : &child));
    return error;
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const argv[],
                        char *const environment[]) {
    struct program_call call = {.path = file, .environment = environment, .search = SEARCH_PATH};
    struct program program;
    pid_t child;
    program_spawn_begin(&call, actions != NULL, &program);
    int error = real_posix_spawnp(pid ? pid : &child, file, actions, attributes, argv, environment);
    program_spawn_done(&program, spawned(error, pid ? pid : &child));
    return error;
}

// The C library starts the shell for these two, and keeps its pid to itself. What the shell starts
// passes the shell's own hooks.
static struct program_call call_of_shell(void) {
    return (struct program_call){.dir = AT_FDCWD, .path = "/bin/sh", .environment = environ};
}

EXPORT int system(const char *command) {
    if (!command)
        return real_system(NULL);
    struct program_call call = call_of_shell();
    struct program program;
    program_spawn_begin(&call, false, &program);
    program_spawn_done(&program, 0); // before: the call is a cancellation point
    return real_system(command);
}

EXPORT FILE *popen(const char *command, const char *mode) {
    struct program_call call = call_of_shell();
    struct program program;
    program_spawn_begin(&call, false, &program);
    FILE *stream = real_popen(command, mode);
    program_spawn_done(&program, stream ? 0 : -1);
    return stream;
}
