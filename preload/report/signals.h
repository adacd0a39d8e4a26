// The signals that make a report: the report signal (option `signal`), and those that would end the
// process by default (SIGTERM, SIGINT, SIGHUP).
//
// The program must not notice. It reads from sigaction what it would read without us, its own
// handler of the report signal runs after ours, and a signal that ends it ends it as before: our
// handler restores the default and raises it again. What it ignores stays ignored.
#ifndef SOCKLEAK_REPORT_SIGNALS_H
#define SOCKLEAK_REPORT_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

typedef int sigaction_function(int, const struct sigaction *, struct sigaction *);

// Called at a process's first socket event. `real` is libc's sigaction. Signal-safe.
void signals_install(sigaction_function *real);

// True where the program's view of the signal and the kernel's may differ.
bool signals_are_held(int signal);

// sigaction(2) as the program means it, for a held signal. Sets errno as libc does.
int signals_action(int signal, const struct sigaction *wanted, struct sigaction *before);

// After any other libc call that may have set a held signal's action (signal, sigset ...): takes it
// back under our care. Returns the handler that the call should have returned for `previous`.
void (*signals_changed(int signal, void (*previous)(int)))(int);

#endif
