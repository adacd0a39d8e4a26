// One way a process comes to its end (or to another life), after it has leaked one socket: accepted
// in leak_one(), in CLOSE_WAIT, its end of stream read. The table of them is in ends.c.
#ifndef SOCKLEAK_TESTS_ENDS_H
#define SOCKLEAK_TESTS_ENDS_H

#include <stddef.h>
#include <sys/types.h>

enum {
    END_SKIPPED = 77 // with the reason on stderr
};

// Who can find the leak.
enum found_by {
    BY_PRELOAD, // the process itself, and `sockleak run`
    BY_RUN      // only `sockleak run`: nothing of ours runs when it ends, or it has no stderr
};

struct end {
    const char *name;
    int (*run)(int argument); // its result is the exit status
    int argument;
    enum found_by found_by;
    const char *why; // of BY_RUN: what keeps the process from saying it itself
};

struct ends {
    const struct end *rows;
    size_t count;
};

// By file: ends_exit.c, ends_signal.c, ends_exec.c, ends_child.c, ends_world.c.
struct ends ends_by_exit(void);
struct ends ends_by_signal(void);
struct ends ends_by_exec(void);
struct ends ends_with_children(void);
struct ends ends_in_other_worlds(void);

// Leaks one socket. Its fd, which an exec does not close.
int leak_one(void);

// Waits for a child and says on stdout how it ended.
void tell_end_of(pid_t child);

// Another program of this test: this one itself, or one beside it.
char *program_beside(const char *name);

// Ends the process with END_SKIPPED.
void skip_end(const char *reason) __attribute__((noreturn));

#endif
