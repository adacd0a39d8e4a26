// The signals that make a report: the report signal (option `signal`), and those that would end the
// process by default (SIGTERM, SIGINT, SIGHUP). And SIGBUS where the ledger is a file, which
// somebody may truncate: the process must not die of it. (It does where the program ignores SIGBUS,
// or blocks it: what a thread itself causes kills it then, sigprocmask(2).)
//
// The program must not notice. It reads from sigaction what it would read without us, its own
// handler of the report signal runs after ours, and a signal that ends it ends it as before: our
// handler restores the default and raises it again. What it ignores stays ignored.
#ifndef SOCKLEAK_REPORT_SIGNALS_H
#define SOCKLEAK_REPORT_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

typedef int sigaction_function(int, const struct sigaction *, struct sigaction *);

// Called at a process's first socket event, before its ledger is used. `real` is libc's sigaction.
// A second time, in a child that was forked meanwhile, it completes the first. Signal-safe.
void signals_install(sigaction_function *real);

// Puts the program's own actions of all but the report signal in force and holds them no longer:
// before a sandbox, in which ours could not end the process (base/owner.h). The report signal stays
// held: it must not kill. Signal-safe.
void signals_give_back_ends(void);

// In a forked child, or where a sandbox was not entered after all: holds what this process should
// hold, which may be the first one of a PID namespace now, or the first one's child. Signal-safe.
void signals_continue(void);

// True where the program's view of the signal and the kernel's may differ.
bool signals_are_held(int signal);

// sigaction(2) as the program means it, for a held signal. Sets errno as libc does. A vfork child's
// is its own: nothing of its parent's changes.
int signals_action(int signal, const struct sigaction *wanted, struct sigaction *before);

// After any other libc call that may have set a held signal's action (signal, sigset ...): takes it
// back under our care. Returns the handler that the call should have returned for `previous`.
void (*signals_changed(int signal, void (*previous)(int)))(int);

#endif
