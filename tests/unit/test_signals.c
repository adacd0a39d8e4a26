// report/signals: the program must not notice. Reports are only counted, by a fake trigger.
#include "base/options.h"
#include "base/owner.h"
#include "fake_trigger.h"
#include "ledger/ledger_format.h"
#include "report/signals.h"
#include "unit.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t seen_signal, seen_code;

static void on_signal(int signal) {
    seen_signal = signal;
}

static void on_signal_with_info(int signal, siginfo_t *info, void *context) {
    seen_signal = signal;
    seen_code = context ? info->si_code : -1;
}

static void install(void) {
    options_parse(NULL);
    signals_install(sigaction);
}

static struct sigaction asked(int signal) {
    struct sigaction action;
    memset(&action, 0x55, sizeof action);
    assert_int_equal(signals_action(signal, NULL, &action), 0);
    return action;
}

static void set(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    assert_int_equal(signals_action(signal, &action, NULL), 0);
}

ISOLATED(only_the_report_signal_and_the_three_ends_are_held) {
    install();
    for (int i = 1; i < 32; i++)
        assert_int_equal(signals_are_held(i),
                         i == SIGUSR1 || i == SIGTERM || i == SIGINT || i == SIGHUP);
}

ISOLATED(the_program_reads_what_it_would_read_without_us) {
    install();
    static const int held[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < 4; i++) {
        struct sigaction kernel;
        assert_int_equal(sigaction(held[i], NULL, &kernel), 0);
        assert_true(kernel.sa_handler != SIG_DFL); // ours is in force
        struct sigaction action = asked(held[i]);
        assert_true(action.sa_handler == SIG_DFL);
        assert_int_equal(action.sa_flags & (int)(SA_SIGINFO | SA_RESETHAND | SA_ONSTACK), 0);
    }
}

// In a child that another thread forked while its parent was at its first socket.
ISOLATED(what_is_installed_a_second_time_is_not_the_programs) {
    install();
    set(SIGTERM, on_signal, 0);
    install();
    assert_true(asked(SIGUSR1).sa_handler == SIG_DFL);
    assert_true(asked(SIGINT).sa_handler == SIG_DFL);
    assert_true(asked(SIGTERM).sa_handler == on_signal);
    set(SIGUSR1, on_signal, 0);
    install();
    raise(SIGUSR1);
    assert_int_equal(seen_signal, SIGUSR1);
}

ISOLATED(the_program_reads_back_what_it_set) {
    install();
    static const int held[] = {SIGUSR1, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct sigaction action = {.sa_sigaction = on_signal_with_info,
                                   .sa_flags = SA_SIGINFO | SA_NODEFER};
        sigaddset(&action.sa_mask, SIGALRM);
        struct sigaction before, now;
        assert_int_equal(signals_action(held[i], &action, &before), 0);
        assert_true(before.sa_handler == SIG_DFL);
        now = asked(held[i]);
        assert_true(now.sa_sigaction == on_signal_with_info);
        assert_int_equal(now.sa_flags & (SA_SIGINFO | SA_NODEFER | SA_RESTART),
                         SA_SIGINFO | SA_NODEFER);
        assert_true(sigismember(&now.sa_mask, SIGALRM));
        assert_int_equal(signals_action(held[i], &before, &now), 0);
        assert_true(now.sa_sigaction == on_signal_with_info);
        assert_true(asked(held[i]).sa_handler == SIG_DFL);
    }
}

ISOLATED(one_object_may_be_wanted_and_before) {
    install();
    struct sigaction action = {.sa_handler = on_signal};
    assert_int_equal(signals_action(SIGUSR1, &action, &action), 0);
    assert_true(action.sa_handler == SIG_DFL);
    assert_true(asked(SIGUSR1).sa_handler == on_signal);
}

ISOLATED(the_report_signal_reports_and_does_not_kill) {
    install();
    raise(SIGUSR1);
    raise(SIGUSR1);
    assert_int_equal(fake_trigger_live_reports, 2);
}

ISOLATED(the_programs_handler_runs_after_the_report) {
    install();
    set(SIGUSR1, on_signal, 0);
    raise(SIGUSR1);
    assert_int_equal(fake_trigger_live_reports, 1);
    assert_int_equal(seen_signal, SIGUSR1);
}

ISOLATED(the_programs_handler_gets_info_and_context) {
    install();
    struct sigaction action = {.sa_sigaction = on_signal_with_info, .sa_flags = SA_SIGINFO};
    signals_action(SIGUSR1, &action, NULL);
    kill(getpid(), SIGUSR1);
    assert_int_equal(seen_signal, SIGUSR1);
    assert_int_equal(seen_code, SI_USER);
}

ISOLATED(an_ignored_report_signal_stays_ignored_for_programs_it_executes) {
    install();
    set(SIGUSR1, SIG_IGN, 0);
    raise(SIGUSR1);
    assert_int_equal(fake_trigger_live_reports, 0);
    assert_true(asked(SIGUSR1).sa_handler == SIG_IGN);
    struct sigaction kernel; // execve(2): what is ignored stays so, what is handled is reset
    sigaction(SIGUSR1, NULL, &kernel);
    assert_true(kernel.sa_handler == SIG_IGN);
    set(SIGUSR1, SIG_DFL, 0);
    raise(SIGUSR1);
    assert_int_equal(fake_trigger_live_reports, 1);
}

ISOLATED(a_handler_that_was_there_before_us_is_kept) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    install();
    assert_true(asked(SIGUSR1).sa_handler == on_signal);
    assert_true(asked(SIGTERM).sa_handler == on_signal);
    raise(SIGTERM);
    assert_int_equal(seen_signal, SIGTERM);
    raise(SIGUSR1);
    assert_int_equal(seen_signal, SIGUSR1);
    assert_int_equal(fake_trigger_live_reports, 1);
}

ISOLATED(sa_resethand_of_the_program_is_honoured_and_ours_stays) {
    install();
    set(SIGUSR1, on_signal, (int)SA_RESETHAND);
    raise(SIGUSR1);
    assert_int_equal(seen_signal, SIGUSR1);
    assert_true(asked(SIGUSR1).sa_handler == SIG_DFL);
    seen_signal = 0;
    raise(SIGUSR1);
    assert_int_equal(seen_signal, 0);
    assert_int_equal(fake_trigger_live_reports, 2);
}

static void raises(void *signal) {
    install();
    raise(*(int *)signal);
    _exit(1);
}

static void a_signal_that_ends_the_process_reports_and_ends_it(int signal) {
    int ends[2];
    char byte = 0;
    assert_int_equal(pipe(ends), 0);
    fake_trigger_ends = ends[1];
    int status = child_status(raises, &signal);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), signal);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, ENDED_SIGNAL);
}

ISOLATED(a_signal_that_ends_the_process_ends_it_as_before_and_reports) {
    a_signal_that_ends_the_process_reports_and_ends_it(SIGTERM);
    a_signal_that_ends_the_process_reports_and_ends_it(SIGINT);
    a_signal_that_ends_the_process_reports_and_ends_it(SIGHUP);
}

ISOLATED(an_ignored_end_stays_ignored) {
    signal(SIGHUP, SIG_IGN); // nohup
    install();
    raise(SIGHUP);
    set(SIGTERM, SIG_IGN, 0);
    raise(SIGTERM);
    assert_true(asked(SIGHUP).sa_handler == SIG_IGN);
}

ISOLATED(signal_returns_the_handler_that_the_program_set) {
    install();
    // As hooks/signal.c does it: libc's signal(), then the correction.
    assert_true(signals_changed(SIGUSR1, signal(SIGUSR1, on_signal)) == SIG_DFL);
    assert_true(asked(SIGUSR1).sa_handler == on_signal);
    raise(SIGUSR1);
    assert_int_equal(fake_trigger_live_reports, 1);
    assert_int_equal(seen_signal, SIGUSR1);
    assert_true(signals_changed(SIGUSR1, signal(SIGUSR1, SIG_IGN)) == on_signal);
    assert_true(signals_changed(SIGTERM, signal(SIGTERM, on_signal)) == SIG_DFL);
    assert_true(signals_changed(SIGTERM, signal(SIGTERM, SIG_DFL)) == on_signal);
    struct sigaction kernel;
    sigaction(SIGTERM, NULL, &kernel);
    assert_true(kernel.sa_handler != SIG_DFL); // ours is in force again
}

ISOLATED(another_report_signal_or_none_can_be_chosen) {
    options_parse("signal=USR2");
    signals_install(sigaction);
    assert_false(signals_are_held(SIGUSR1));
    raise(SIGUSR2);
    assert_int_equal(fake_trigger_live_reports, 1);
}

ISOLATED(with_signal_none_no_report_signal_is_held) {
    options_parse("signal=none");
    signals_install(sigaction);
    assert_false(signals_are_held(SIGUSR1));
    assert_false(signals_are_held(0));
    assert_true(signals_are_held(SIGTERM));
}

ISOLATED(a_vfork_child_makes_no_report) {
    install();
    set(SIGUSR1, on_signal, 0);
    owner_vfork_depth = 1;
    raise(SIGUSR1);
    owner_vfork_depth = 0;
    assert_int_equal(fake_trigger_live_reports, 0);
    assert_int_equal(seen_signal, SIGUSR1);
}

ISOLATED(a_vfork_childs_actions_are_not_its_parents) {
    install();
    set(SIGUSR1, on_signal, 0);
    set(SIGHUP, on_signal, 0);
    struct sigaction parents[2], fallback = {.sa_handler = SIG_DFL}, before, kernel;
    sigaction(SIGUSR1, NULL, &parents[0]);
    sigaction(SIGHUP, NULL, &parents[1]);
    owner_vfork_depth = 1;
    assert_int_equal(signals_action(SIGUSR1, &fallback, &before), 0);
    assert_true(before.sa_handler == on_signal);
    assert_true(signals_changed(SIGHUP, signal(SIGHUP, SIG_DFL)) == on_signal);
    for (int i = 0; i < 2; i++) {
        sigaction(i ? SIGHUP : SIGUSR1, NULL, &kernel);
        assert_true(kernel.sa_handler == SIG_DFL); // no report of ours in the child
        sigaction(i ? SIGHUP : SIGUSR1, &parents[i], NULL);
    }
    owner_vfork_depth = 0; // and in the parent the kernel's actions are as they were
    assert_true(asked(SIGUSR1).sa_handler == on_signal);
    assert_true(asked(SIGHUP).sa_handler == on_signal);
}

// Another thread sets an action between our question and our answer to it.
static struct sigaction set_by_another;

static int racing_sigaction(int signal, const struct sigaction *action, struct sigaction *before) {
    int result = sigaction(signal, action, before);
    if (signal == SIGTERM && !action && set_by_another.sa_handler) {
        sigaction(SIGTERM, &set_by_another, NULL);
        set_by_another.sa_handler = NULL;
    }
    return result;
}

ISOLATED(an_action_that_another_thread_sets_while_we_install_is_kept) {
    options_parse(NULL);
    set_by_another.sa_handler = on_signal;
    signals_install(racing_sigaction);
    assert_true(asked(SIGTERM).sa_handler == on_signal);
    raise(SIGTERM);
    assert_int_equal(seen_signal, SIGTERM);
    set(SIGTERM, SIG_DFL, 0);
    assert_true(asked(SIGTERM).sa_handler == SIG_DFL);
}

ISOLATED(the_ends_are_given_back_and_taken_again_and_the_report_signal_stays) {
    install();
    set(SIGTERM, on_signal, (int)SA_RESETHAND);
    signals_give_back_ends();
    struct sigaction kernel;
    sigaction(SIGTERM, NULL, &kernel);
    assert_true(kernel.sa_handler == on_signal);
    assert_true(kernel.sa_flags & (int)SA_RESETHAND);
    sigaction(SIGINT, NULL, &kernel);
    assert_true(kernel.sa_handler == SIG_DFL);
    assert_false(signals_are_held(SIGINT));
    assert_true(signals_are_held(SIGUSR1));
    signals_continue();
    assert_true(signals_are_held(SIGINT));
    sigaction(SIGINT, NULL, &kernel);
    assert_true(kernel.sa_handler != SIG_DFL);
    assert_true(asked(SIGINT).sa_handler == SIG_DFL);
    assert_true(asked(SIGTERM).sa_handler == on_signal);
}

ISOLATED(nothing_is_held_before_the_first_socket) {
    signals_give_back_ends();
    signals_continue();
    assert_false(signals_are_held(SIGTERM));
}

ISOLATED(installing_leaves_errno_alone) {
    errno = EXDEV;
    install();
    assert_int_equal(errno, EXDEV);
}

int main(void) {
    // What the tests take for granted, and a shell's background job, or nohup, has ignored.
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_report_signal_and_the_three_ends_are_held),
        cmocka_unit_test(the_program_reads_what_it_would_read_without_us),
        cmocka_unit_test(what_is_installed_a_second_time_is_not_the_programs),
        cmocka_unit_test(the_program_reads_back_what_it_set),
        cmocka_unit_test(one_object_may_be_wanted_and_before),
        cmocka_unit_test(the_report_signal_reports_and_does_not_kill),
        cmocka_unit_test(the_programs_handler_runs_after_the_report),
        cmocka_unit_test(the_programs_handler_gets_info_and_context),
        cmocka_unit_test(an_ignored_report_signal_stays_ignored_for_programs_it_executes),
        cmocka_unit_test(a_handler_that_was_there_before_us_is_kept),
        cmocka_unit_test(sa_resethand_of_the_program_is_honoured_and_ours_stays),
        cmocka_unit_test(a_signal_that_ends_the_process_ends_it_as_before_and_reports),
        cmocka_unit_test(an_ignored_end_stays_ignored),
        cmocka_unit_test(signal_returns_the_handler_that_the_program_set),
        cmocka_unit_test(another_report_signal_or_none_can_be_chosen),
        cmocka_unit_test(with_signal_none_no_report_signal_is_held),
        cmocka_unit_test(a_vfork_child_makes_no_report),
        cmocka_unit_test(a_vfork_childs_actions_are_not_its_parents),
        cmocka_unit_test(an_action_that_another_thread_sets_while_we_install_is_kept),
        cmocka_unit_test(the_ends_are_given_back_and_taken_again_and_the_report_signal_stays),
        cmocka_unit_test(nothing_is_held_before_the_first_socket),
        cmocka_unit_test(installing_leaves_errno_alone),
    };
    return cmocka_run_group_tests_name("signals", tests, NULL, NULL);
}
