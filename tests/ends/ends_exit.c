// Ends of one's own will.
#include "base/sys.h"
#include "ends.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// What is printed here must not be printed twice, nor be lost: written by exit's flush alone.
static void leave_output(void) {
    printf("in stdio's buffer");
}

static int by_return(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    return 11;
}

static int by_exit(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    exit(12);
}

static void *exit_here(void *unused) {
    leak_one();
    leave_output();
    exit(13);
    return unused;
}

static int by_thread(int unused) {
    pthread_t thread;
    (void)unused;
    pthread_create(&thread, NULL, exit_here, NULL);
    pthread_join(thread, NULL);
    return 1;
}

static int by__exit(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    _exit(14);
}

static int by__Exit(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    _Exit(15);
}

static int by_quick_exit(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    quick_exit(16);
}

static int by_exit_group(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    syscall(SYS_exit_group, 17);
    return 1;
}

static int by_instruction(int unused) {
    (void)unused;
    leak_one();
    leave_output();
    sys_call(SYS_exit_group, 18, 0, 0, 0, 0, 0);
    return 1;
}

static pthread_t main_thread;

static void *outlive_main(void *unused) {
    pthread_join(main_thread, NULL);
    leak_one();
    leave_output();
    return unused;
}

static int by_last_thread(int unused) {
    pthread_t thread;
    (void)unused;
    main_thread = pthread_self();
    pthread_create(&thread, NULL, outlive_main, NULL);
    pthread_exit(NULL);
}

static void leave_from_handler(void) {
    puts("handler");
    fflush(stdout);
    _exit(19);
}

static int by_handler(int unused) {
    (void)unused;
    leak_one();
    atexit(leave_from_handler);
    return 1;
}

static const struct end rows[] = {
    {"return from main", by_return, 0, BY_PRELOAD, NULL},
    {"exit", by_exit, 0, BY_PRELOAD, NULL},
    {"exit from a thread", by_thread, 0, BY_PRELOAD, NULL},
    {"_exit", by__exit, 0, BY_PRELOAD, NULL},
    {"_Exit", by__Exit, 0, BY_PRELOAD, NULL},
    {"quick_exit", by_quick_exit, 0, BY_PRELOAD, NULL},
    {"_exit in an atexit handler", by_handler, 0, BY_PRELOAD, NULL},
    {"syscall(SYS_exit_group)", by_exit_group, 0, BY_PRELOAD, NULL},
    {"exit_group by an instruction of its own", by_instruction, 0, BY_RUN, "no function is called"},
    {"pthread_exit of the last thread", by_last_thread, 0, BY_PRELOAD, NULL},
};

struct ends ends_by_exit(void) {
    return (struct ends){rows, sizeof rows / sizeof *rows};
}
