// sigaction, signal and kin: the program sees and sets the actions of the signals that make a
// report as if we were not there (report/signals.h). All other signals pass through.
#include "hooks/real.h"
#include "report/signals.h"

EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *before) {
    if (signals_are_held(number))
        return signals_action(number, action, before);
    return real_sigaction(number, action, before);
}

int __sigaction(int number, const struct sigaction *action, struct sigaction *before);
EXPORT int __sigaction(int number, const struct sigaction *action, struct sigaction *before) {
    if (signals_are_held(number))
        return signals_action(number, action, before);
    return real___sigaction(number, action, before);
}

static sighandler_t changed(int number, sighandler_t previous) {
    return signals_are_held(number) ? signals_changed(number, previous) : previous;
}

EXPORT sighandler_t signal(int number, sighandler_t handler) {
    return changed(number, real_signal(number, handler));
}

sighandler_t bsd_signal(int number, sighandler_t handler);
EXPORT sighandler_t bsd_signal(int number, sighandler_t handler) {
    return changed(number, real_bsd_signal(number, handler));
}

EXPORT sighandler_t ssignal(int number, sighandler_t handler) {
    return changed(number, real_ssignal(number, handler));
}

EXPORT sighandler_t sysv_signal(int number, sighandler_t handler) {
    return changed(number, real_sysv_signal(number, handler));
}

sighandler_t __sysv_signal(int number, sighandler_t handler);
EXPORT sighandler_t __sysv_signal(int number, sighandler_t handler) {
    return changed(number, real___sysv_signal(number, handler));
}

EXPORT sighandler_t sigset(int number, sighandler_t handler) {
    return changed(number, real_sigset(number, handler));
}

EXPORT int sigignore(int number) {
    int result = real_sigignore(number);
    if (result == 0)
        changed(number, SIG_IGN);
    return result;
}
