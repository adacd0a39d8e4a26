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
    sigset_t mask_before; // of this process
    struct sigaction chld_before;
};

// Starts argv[0], looked up in PATH. Returns 0, or the errno of its exec, negated: nothing runs
// then. From here until run_release_signals(), all signals are blocked in this process. Orphans of
// the command become our children (PR_SET_CHILD_SUBREAPER), so that they can be found.
int run_start(struct run_child *child, char *const *argv, char *const *environment);

// Waits for its end and returns the status as wait(2) does. In between, `look` is called: soon
// again as long as it says that it saw something new, and else more and more seldom, up to 20 times
// a second. Looks that take long are made less often: they get a fiftieth of the time.
int run_wait(const struct run_child *child, bool (*look)(void *context), void *context);

// Waits at most wait_ms for orphans of the command that are just about to end. Between pauses it
// asks whether there are any (`any_left`).
void run_wait_for_orphans(long wait_ms, bool (*any_left)(void *context), void *context);

// Undoes what run_start() did to this process's signals. What came meanwhile was meant for the
// command, which has ended: dropped.
void run_release_signals(const struct run_child *child);

#endif
