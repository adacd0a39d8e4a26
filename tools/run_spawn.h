// Starts a command and waits for it, as invisibly as can be: same process group, same terminal,
// same standard streams, same signal dispositions.
//
// What the terminal sends (Ctrl-C, Ctrl-Z, Ctrl-\) reaches the command by itself, since it is in
// our process group; what somebody sends to us is passed on. When the terminal stops the command we
// stop, too, so that the shell's job control sees one job.
#ifndef SOCKLEAK_TOOLS_RUN_SPAWN_H
#define SOCKLEAK_TOOLS_RUN_SPAWN_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

struct run_child {
    pid_t pid;
    int signals_fd;       // what is blocked here is read from it
    sigset_t mask_before; // of this process
    struct sigaction chld_before;
};

// Starts argv[0], looked up in PATH. Returns 0, or the errno of its exec, negated: nothing runs
// then. From here until run_release_signals(), all signals are blocked in this process. Orphans of
// the command become our children (PR_SET_CHILD_SUBREAPER), so that they can be found.
int run_start(struct run_child *child, char *const *argv, char *const *environment);

// What is done while the command runs.
struct run_looks {
    void *context;
    // Whether there was something not seen before. Called soon again as long as there is, and else
    // more and more seldom, up to 20 times a second; where it takes long, for a fiftieth of the
    // time.
    bool (*all)(void *context);
    // Called when there is something to read at ledgers_fd (-1: none), and each 50 ms. Quick.
    void (*often)(void *context);
    int ledgers_fd;
};

// Waits for the command's end, looking around meanwhile, and returns the status as wait(2) does.
int run_wait(const struct run_child *child, const struct run_looks *looks);

// Waits at most wait_ms for orphans of the command that are just about to end. Between pauses it
// asks whether there are any (`any_left`).
void run_wait_for_orphans(long wait_ms, bool (*any_left)(void *context), void *context);

// Undoes what run_start() did to this process's signals. What came meanwhile was meant for the
// command, which has ended: dropped.
void run_release_signals(const struct run_child *child);

#endif
