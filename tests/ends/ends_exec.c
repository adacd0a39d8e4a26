// The same process, another program: the socket lives on in it.
#include "ends.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void become(const char *program) {
    char number[16], *path = program_beside(program);
    snprintf(number, sizeof number, "%d", leak_one());
    fflush(stdout);
    execl(path, path, number, (char *)NULL);
    perror(path);
    _exit(1);
}

static int by_exec_of_itself(int unused) {
    (void)unused;
    leak_one();
    fflush(stdout);
    execl("/proc/self/exe", "ends", "--list", (char *)NULL);
    return 1;
}

static int by_exec(int unused) {
    (void)unused;
    become("next");
    return 1;
}

static int by_exec_of_a_static_program(int unused) {
    (void)unused;
    if (access(program_beside("next-static"), X_OK) != 0)
        skip_end("no static C library to link with");
    become("next-static");
    return 1;
}

static int by_exec_of_a_setuid_program(int unused) {
    struct stat status;
    (void)unused;
    if (stat(program_beside("next-setuid"), &status) != 0 || !(status.st_mode & S_ISUID) ||
        status.st_uid == geteuid())
        skip_end("needs root, to make a program setuid to another user");
    become("next-setuid");
    return 1;
}

static void *become_next(void *unused) {
    become("next");
    return unused;
}

static int by_exec_in_a_thread(int unused) {
    pthread_t thread;
    (void)unused;
    pthread_create(&thread, NULL, become_next, NULL);
    pthread_join(thread, NULL);
    return 1;
}

static int by_exec_that_fails(int unused) {
    (void)unused;
    leak_one();
    printf("execv %d\n", execl("/nonexistent/program", "program", (char *)NULL));
    return 31;
}

static int by_exec_with_search(int unused) {
    (void)unused;
    leak_one();
    fflush(stdout);
    execlp("true", "true", (char *)NULL);
    return 1;
}

static const struct end rows[] = {
    {"exec of the same program", by_exec_of_itself, 0, BY_RUN, "the new image opens no socket"},
    {"exec of another program", by_exec, 0, BY_RUN, "the new image opens no socket"},
    {"exec of a static program", by_exec_of_a_static_program, 0, BY_RUN,
     "nothing is preloaded into it"},
    {"exec of a setuid program", by_exec_of_a_setuid_program, 0, BY_RUN,
     "nothing is preloaded into it"},
    {"exec in a thread", by_exec_in_a_thread, 0, BY_RUN, "the new image opens no socket"},
    {"exec by execlp", by_exec_with_search, 0, BY_RUN, "the new image opens no socket"},
    {"exec that fails", by_exec_that_fails, 0, BY_PRELOAD, NULL},
};

struct ends ends_by_exec(void) {
    return (struct ends){rows, sizeof rows / sizeof *rows};
}
