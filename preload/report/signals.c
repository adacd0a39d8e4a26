#include "report/signals.h"
#include "base/options.h"
#include "base/owner.h"
#include "base/sys.h"
#include "ledger/ledger.h"
#include "report/interrupted.h"
#include "report/trigger.h"
#include <errno.h>
#include <string.h>
#include <ucontext.h>

// An action of the program's is replaced while a handler may be reading it, so each change takes
// the next of a few slots, and the pointer moves when that is written.
enum {
    SLOTS = 8
};

enum purpose {
    REPORTS, // ours in front of the program's, unless it is ignored
    ENDS,    // ours in the place of the default
    MENDS    // as REPORTS, and as deadly as it was
};

struct held_signal {
    int signal;
    enum purpose purpose;
    const struct sigaction *programs; // what the program believes to be in force
    struct sigaction slots[SLOTS];
    unsigned next;
    bool installed;
};

static struct held_signal held[] = {{.purpose = REPORTS},
                                    {.signal = SIGTERM, .purpose = ENDS},
                                    {.signal = SIGINT, .purpose = ENDS},
                                    {.signal = SIGHUP, .purpose = ENDS},
                                    {.signal = SIGBUS, .purpose = MENDS}};

enum {
    HELD_COUNT = sizeof held / sizeof *held
};

static sigaction_function *real_action;

static struct held_signal *held_of(int signal) {
    for (int i = 0; i < HELD_COUNT; i++)
        if (held[i].signal == signal && __atomic_load_n(&held[i].installed, __ATOMIC_ACQUIRE))
            return &held[i];
    return NULL;
}

static void remember(struct held_signal *h, const struct sigaction *action) {
    unsigned slot = __atomic_fetch_add(&h->next, 1, __ATOMIC_RELAXED) % SLOTS;
    h->slots[slot] = *action;
    __atomic_store_n(&h->programs, &h->slots[slot], __ATOMIC_RELEASE);
}

static struct sigaction programs(const struct held_signal *h) {
    return *__atomic_load_n(&h->programs, __ATOMIC_ACQUIRE);
}

// A child that shares our memory (vfork) has actions of its own in the kernel; what is remembered
// here is its parent's. It is left alone, and its calls go to the kernel as they are.
static bool is_child_in_our_memory(void) {
    return owner_is_other_process() && !owner_is_sandboxed();
}

// --- handlers -----------------------------------------------------------------------------------

static const char *headline_words(int signal) {
    switch (signal) {
    case SIGTERM:
        return "at SIGTERM in";
    case SIGINT:
        return "at SIGINT in";
    case SIGHUP:
        return "at SIGHUP in";
    case SIGUSR1:
        return "at SIGUSR1 in";
    case SIGUSR2:
        return "at SIGUSR2 in";
    default:
        return "at a signal in";
    }
}

static void restore_default(int signal) {
    struct sigaction fallback;
    memset(&fallback, 0, sizeof fallback);
    fallback.sa_handler = SIG_DFL;
    real_action(signal, &fallback, NULL);
}

// Blocked while the handler runs, and taken as soon as that returns.
static void raise_again(int signal, siginfo_t *info) {
    if (sys_call(SYS_rt_tgsigqueueinfo, sys_getpid(), sys_gettid(), signal, (long)info, 0, 0) < 0)
        sys_call(SYS_tgkill, sys_getpid(), sys_gettid(), signal, 0, 0, 0);
}

static void on_end(int signal, siginfo_t *info, void *context) {
    int saved_errno = errno;
    // A child of _Fork may have become the init of a PID namespace: see signals_continue().
    if (sys_getpid() == 1)
        return;
    interrupted_begin(context);
    trigger_end(ENDED_SIGNAL, 128 + signal, headline_words(signal));
    interrupted_end();
    restore_default(signal);
    raise_again(signal, info);
    errno = saved_errno;
}

static bool is_handler(const struct sigaction *action) {
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

// What the kernel does at the call of a handler with SA_RESETHAND.
static void reset(struct held_signal *h, const struct sigaction *action) {
    struct sigaction fallback = *action;
    fallback.sa_handler = SIG_DFL;
    if (is_child_in_our_memory())
        real_action(h->signal, &fallback, NULL);
    else
        remember(h, &fallback);
}

static void call_programs_handler(struct held_signal *h, int signal, siginfo_t *info,
                                  void *context) {
    struct sigaction action = programs(h);
    if (!is_handler(&action))
        return;
    if (action.sa_flags & (int)SA_RESETHAND)
        reset(h, &action);
    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(signal, info, context);
    else
        action.sa_handler(signal);
}

static void on_report(int signal, siginfo_t *info, void *context) {
    if (!owner_is_other_process()) {
        interrupted_begin(context);
        trigger_live(headline_words(signal));
        interrupted_end();
    }
    struct held_signal *h = held_of(signal);
    if (h)
        call_programs_handler(h, signal, info, context);
}

// Only what a thread's own access raised comes again when the handler returns; and then with the
// address, for who looks at the core.
static bool comes_again(const siginfo_t *info) {
    return info->si_code >= BUS_ADRALN && info->si_code <= BUS_MCEERR_AR;
}

// As the kernel would block them for that handler: ours blocks all.
static void block_as_for(const struct sigaction *action, int signal, const ucontext_t *context) {
    uint64_t before, more;
    memcpy(&before, &context->uc_sigmask, sizeof before);
    memcpy(&more, &action->sa_mask, sizeof more);
    if (!(action->sa_flags & SA_NODEFER))
        more |= 1ull << (signal - 1);
    sys_set_signal_mask(before | more);
}

// The init of a PID namespace is not killed by what is sent to it.
static bool kills(const siginfo_t *info) {
    return comes_again(info) || sys_getpid() != 1;
}

static void on_bus(int signal, siginfo_t *info, void *context) {
    if (info->si_code == BUS_ADRERR && ledger_survives_cut(info->si_addr))
        return;
    struct held_signal *h = held_of(signal);
    if (!h) // given back meanwhile
        return;
    struct sigaction action = programs(h);
    if (is_handler(&action)) {
        block_as_for(&action, signal, context);
        call_programs_handler(h, signal, info, context);
    } else if (action.sa_handler == SIG_DFL ? kills(info) : comes_again(info)) {
        int saved_errno = errno;
        restore_default(signal);
        if (!comes_again(info))
            raise_again(signal, info);
        errno = saved_errno;
    }
}

// In the place of a handler of the program's that the kernel would reset to the default at its call
// (SA_RESETHAND). Such a handler often tidies up and raises the signal again, as node's does: then
// the default is our on_end.
static void on_once(int signal, siginfo_t *info, void *context) {
    struct held_signal *h = held_of(signal);
    struct sigaction once = programs(h);
    if (once.sa_handler == SIG_DFL) // two came at once, and another thread took the first
        on_end(signal, info, context);
    if (!is_handler(&once))
        return;
    if (!owner_is_other_process()) {
        struct sigaction ending;
        memset(&ending, 0, sizeof ending);
        ending.sa_sigaction = on_end;
        ending.sa_flags = SA_RESTART | SA_ONSTACK | SA_SIGINFO;
        real_action(signal, &ending, NULL);
    }
    call_programs_handler(h, signal, info, context);
}

static bool is_ours(const struct sigaction *action) {
    return action->sa_sigaction == on_end || action->sa_sigaction == on_report ||
           action->sa_sigaction == on_bus || action->sa_sigaction == on_once;
}

// --- installing ---------------------------------------------------------------------------------

// What the kernel should hold so that the program gets what it wants, and we our report.
static struct sigaction over(const struct held_signal *h, const struct sigaction *wanted) {
    struct sigaction action = *wanted;
    // What is ignored stays ignored, also by the programs that it executes: a handler would not
    // survive that, and they would die of the signal.
    if (wanted->sa_handler == SIG_IGN)
        return action;
    if (h->purpose != ENDS) {
        action.sa_sigaction = h->purpose == REPORTS ? on_report : on_bus;
        if (h->purpose == MENDS) // nothing may come between the fault and its mending
            sigfillset(&action.sa_mask);
        action.sa_flags = is_handler(wanted) ? (wanted->sa_flags & ~(int)SA_RESETHAND) | SA_SIGINFO
                                             : SA_RESTART | SA_ONSTACK | SA_SIGINFO;
    } else if (wanted->sa_handler == SIG_DFL) {
        action.sa_sigaction = on_end;
        action.sa_flags = SA_RESTART | SA_ONSTACK | SA_SIGINFO;
        sigemptyset(&action.sa_mask);
    } else if (is_handler(wanted) && (wanted->sa_flags & (int)SA_RESETHAND)) {
        action.sa_sigaction = on_once;
        action.sa_flags = (wanted->sa_flags & ~(int)SA_RESETHAND) | SA_SIGINFO;
    }
    return action;
}

static void install(struct held_signal *h) {
    struct sigaction now;
    if (real_action(h->signal, NULL, &now) != 0)
        return;
    if (is_ours(&now)) { // of the parent, which was at it when it forked: what it remembered holds
        __atomic_store_n(&h->installed, true, __ATOMIC_RELEASE);
        return;
    }
    remember(h, &now);
    struct sigaction action = over(h, &now), was;
    // First the view, then the kernel: a program that asks in between is told the truth either way.
    __atomic_store_n(&h->installed, true, __ATOMIC_RELEASE);
    if (action.sa_handler == now.sa_handler || real_action(h->signal, &action, &was) != 0)
        return;
    if (was.sa_handler == now.sa_handler && was.sa_flags == now.sa_flags)
        return;
    // Another thread has set an action since we asked, and we have just replaced it. It went past
    // the view, or through it, which remembers it then.
    if (!is_ours(&was))
        remember(h, &was);
    now = programs(h);
    action = over(h, &now);
    real_action(h->signal, &action, NULL);
}

// The init of a PID namespace does not die of the signals that end others: the kernel drops them as
// long as there is no handler, and so must it stay.
static bool is_init(void) {
    return sys_getpid() == 1;
}

static bool is_wanted(const struct held_signal *h, bool init) {
    switch (h->purpose) {
    case REPORTS:
        return h->signal != 0;
    case ENDS:
        return !init;
    default:
        return ledger_is_file();
    }
}

void signals_install(sigaction_function *real) {
    int saved_errno = errno;
    real_action = real;
    held[0].signal = (int)options.signal;
    bool init = is_init();
    for (int i = 0; i < HELD_COUNT; i++)
        if (is_wanted(&held[i], init))
            install(&held[i]);
    errno = saved_errno;
}

void signals_give_back_ends(void) {
    int saved_errno = errno;
    for (int i = 0; i < HELD_COUNT; i++) {
        struct held_signal *h = &held[i];
        struct sigaction now;
        if (h->purpose == REPORTS || !h->installed)
            continue;
        if (real_action(h->signal, NULL, &now) == 0 && is_ours(&now)) {
            now = programs(h);
            real_action(h->signal, &now, NULL);
        }
        __atomic_store_n(&h->installed, false, __ATOMIC_RELEASE);
    }
    errno = saved_errno;
}

void signals_continue(void) {
    if (!real_action) // no socket so far
        return;
    int saved_errno = errno;
    bool init = is_init();
    if (init)
        signals_give_back_ends();
    for (int i = 0; i < HELD_COUNT; i++)
        if (is_wanted(&held[i], init) && !held[i].installed)
            install(&held[i]);
    errno = saved_errno;
}

bool signals_are_held(int signal) {
    return held_of(signal) != NULL;
}

// An action as sigaction(2) gives it back. The kernel never blocks SIGKILL and SIGSTOP, and on x86
// libc adds SA_RESTORER (0x04000000), which a program that looks at the flags sees.
static struct sigaction as_given_back(struct sigaction action) {
    sigdelset(&action.sa_mask, SIGKILL);
    sigdelset(&action.sa_mask, SIGSTOP);
#ifdef __x86_64__
    action.sa_flags |= 0x04000000;
#endif
    return action;
}

int signals_action(int signal, const struct sigaction *wanted, struct sigaction *before) {
    struct held_signal *h = held_of(signal);
    struct sigaction now, believed = programs(h), action;
    if (wanted && is_child_in_our_memory()) {
        action = *wanted;
    } else if (wanted) {
        struct sigaction copy = as_given_back(*wanted); // `before` may be the same object
        remember(h, &copy);
        action = over(h, &copy);
    }
    int result = real_action(signal, wanted ? &action : NULL, &now);
    if (result == 0 && is_ours(&now)) {
        // siginterrupt(3) changes this flag in the kernel, behind sigaction's back.
        if (believed.sa_handler != SIG_DFL && believed.sa_handler != SIG_IGN)
            believed.sa_flags = (believed.sa_flags & ~SA_RESTART) | (now.sa_flags & SA_RESTART);
        now = believed;
    }
    if (result == 0 && before)
        *before = now;
    return result;
}

void (*signals_changed(int signal, void (*previous)(int)))(int) {
    struct held_signal *h = held_of(signal);
    struct sigaction now, believed = programs(h);
    int saved_errno = errno;
    if (is_ours(&(struct sigaction){.sa_handler = previous}))
        previous = believed.sa_handler;
    if (!is_child_in_our_memory() && real_action(signal, NULL, &now) == 0 && !is_ours(&now)) {
        remember(h, &now);
        struct sigaction action = over(h, &now);
        if (action.sa_handler != now.sa_handler)
            real_action(signal, &action, NULL);
    }
    errno = saved_errno;
    return previous;
}
