// sockleak run -- COMMAND: watches a command and all processes that it starts.
#include "commands.h"
#include "errors.h"
#include "format.h"
#include "format_options.h"
#include "options.h"
#include "run_descendants.h"
#include "run_directory.h"
#include "run_environment.h"
#include "run_gather.h"
#include "run_keep.h"
#include "run_marks.h"
#include "run_notices.h"
#include "run_spawn.h"
#include "visibility.h"
#include "watch_run.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum run_option {
    OPTION_LEDGER_DIR = OPTION_LAST,
    OPTION_LIBRARY_OPTION,
    OPTION_SIGNAL,
    OPTION_INTERVAL,
    OPTION_LEAK_AFTER
};
enum {
    ORPHANS_WAIT_MS = 200,
    INTERVAL_MIN_MS = 100
};

static const char name[] = "run";

struct run {
    struct format_options shared;
    const char *ledger_dir;
    const char **options; // NAME=VALUE for the library
    size_t option_count;
    char *signal_option;
    uint64_t interval_ms, leak_after_ms; // 0: none
    bool quiet, has_leak_after_option;
    char **argv; // the command
    char library[PATH_MAX];
    char program[PATH_MAX]; // the command's file; "" where it was not found
    struct visibility visibility;
    struct run_directory directory;
    struct descendants *descendants;
    struct run_notices *notices;
    uint64_t leaks_elsewhere; // of processes without a ledger
};

// --- options ------------------------------------------------------------------------------------

static const struct option long_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"quiet", no_argument, NULL, 'q'},
    {"ledger-dir", required_argument, NULL, OPTION_LEDGER_DIR},
    {"option", required_argument, NULL, OPTION_LIBRARY_OPTION},
    {"signal", required_argument, NULL, OPTION_SIGNAL},
    {"interval", required_argument, NULL, OPTION_INTERVAL},
    {"leak-after", required_argument, NULL, OPTION_LEAK_AFTER},
    FORMAT_LONG_OPTIONS,
    {NULL, 0, NULL, 0}};

static void add_option(struct run *run, const char *option) {
    run->options = must_reallocate(run->options, run->option_count + 1, sizeof *run->options);
    run->options[run->option_count++] = option;
    // What the library judges by, for those processes that are judged from outside.
    uint64_t grace_ms;
    if (strncmp(option, "families=", 9) == 0)
        run->shared.report.unix_sockets = strcmp(option + 9, "inet") != 0;
    else if (strncmp(option, "grace_ms=", 9) == 0 &&
             option_number(option + 9, 0, UINT32_MAX, &grace_ms))
        run->shared.report.grace_ms = (uint32_t)grace_ms;
    else if (strncmp(option, "leak_after=", 11) == 0)
        run->has_leak_after_option = true;
}

static int accept_library_option(struct run *run, const char *option) {
    const char *near;
    const char *problem = run_option_problem(option, &near);
    if (problem && near)
        return error_usage(name, "--option %s: %s: did you mean '%s'?", option, problem, near);
    if (problem)
        return error_usage(name, "--option %s: %s", option, problem);
    add_option(run, option);
    return STATUS_OK;
}

static int accept_signal(struct run *run, const char *signal) {
    static const char *const names[] = {"USR1",  "USR2", "ALRM", "URG",
                                        "WINCH", "IO",   "PWR",  "none"};
    const char *wanted = strncmp(signal, "SIG", 3) == 0 ? signal + 3 : signal;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], wanted) != 0)
            continue;
        free(run->signal_option);
        if (asprintf(&run->signal_option, "signal=%s", wanted) < 0)
            return STATUS_FAILED;
        return STATUS_OK;
    }
    return error_usage(
        name, "--signal %s: is none of USR1, USR2, ALRM, URG, WINCH, IO, PWR and none", signal);
}

static int accept_period(const char *option, uint64_t min_ms, uint64_t *out_ms) {
    int status = option_accept_time(name, option, optarg, out_ms);
    if (status == STATUS_OK && *out_ms == 0)
        return error_usage(name, "--%s %s: is not a time that is longer than 0", option, optarg);
    *out_ms = *out_ms < min_ms ? min_ms : *out_ms;
    return status;
}

static int accept_option(struct run *run, int c, char **argv) {
    switch (c) {
    case 'q':
        run->quiet = true;
        return STATUS_OK;
    case OPTION_LEDGER_DIR:
        return option_accept_name(name, "ledger-dir", optarg, "a directory's name",
                                  &run->ledger_dir);
    case OPTION_LIBRARY_OPTION:
        return accept_library_option(run, optarg);
    case OPTION_SIGNAL:
        return accept_signal(run, optarg);
    case OPTION_INTERVAL:
        return accept_period("interval", INTERVAL_MIN_MS, &run->interval_ms);
    case OPTION_LEAK_AFTER:
        return accept_period("leak-after", 1, &run->leak_after_ms);
    case '?':
    case ':':
        return option_error(name, c, argv, long_options);
    default:
        return format_options_accept(&run->shared, name, c, optarg);
    }
}

static int parse(struct run *run, int argc, char **argv, bool *wants_help) {
    int c, status = STATUS_OK;
    opterr = 0;
    while (status == STATUS_OK && !*wants_help &&
           (c = getopt_long(argc, argv, "+:hq" FORMAT_SHORT_OPTIONS, long_options, NULL)) != -1) {
        if (c == 'h')
            *wants_help = true;
        else
            status = accept_option(run, c, argv);
    }
    if (status != STATUS_OK || *wants_help)
        return status;
    if (optind == argc)
        return error_usage(name, "which command? sockleak run [options] -- COMMAND [ARGUMENT...]");
    run->argv = argv + optind;
    if (run->signal_option)
        add_option(run, run->signal_option);
    if (run->leak_after_ms && run->has_leak_after_option)
        return error_usage(name, "--leak-after and --option leak_after would both report the same "
                                 "sockets: use one of them");
    if (run->leak_after_ms)
        add_option(run, "leak_after=0"); // nor the one of SOCKLEAK_OPTIONS
    // Files, too: before the command runs for an hour.
    return format_options_check(&run->shared, name, NULL);
}

// --- before -------------------------------------------------------------------------------------

// Where execvp(3) will find a file that access(2) permits `mode`; "" where there is none. Only for
// what we can tell of it: execvp has the last word.
static void find_program(const char *command, int mode, char *path, size_t path_bytes) {
    path[0] = '\0';
    if (strchr(command, '/')) {
        snprintf(path, path_bytes, "%s", command);
        return;
    }
    const char *directories = getenv("PATH");
    directories = directories ? directories : "/bin:/usr/bin";
    for (size_t len;; directories += len + 1) {
        len = strcspn(directories, ":");
        snprintf(path, path_bytes, "%.*s%s%s", (int)len, directories, len ? "/" : "", command);
        if (access(path, mode) == 0)
            return;
        if (!directories[len])
            break;
    }
    path[0] = '\0';
}

static void look_at_program(struct run *run) {
    find_program(run->argv[0], X_OK, run->program, sizeof run->program);
    visibility_of_file(run->program, &run->visibility);
    if (run->visibility.problem)
        error_warn("%s cannot be watched (%s); its children are, where they can be", run->argv[0],
                   run->visibility.problem);
}

static int say_cannot_run(const char *command, int error) {
    char path[PATH_MAX];
    find_program(command, F_OK, path, sizeof path);
    if (error == -EACCES && !path[0]) // of a directory of PATH that may not be searched: execvp(3)
        error = -ENOENT;
    error_say("%s: %s", command,
              error == -ENOENT && !strchr(command, '/') ? "command not found" : strerror(-error));
    return error == -ENOENT || error == -ENOTDIR ? STATUS_NOT_FOUND : STATUS_CANNOT_RUN;
}

// --- the command --------------------------------------------------------------------------------

// What is in no ledger.
static void gather_rest(struct run *run, struct report *report) {
    struct report *rest = report_new();
    run_marks_gather(run->descendants, &run->directory);
    run->leaks_elsewhere = run_notices_gather(run->notices, rest, &run->directory);
    descendants_report_unwatched(run->descendants, rest);
    for (uint32_t i = 0; i < rest->process_count; i++)
        report_add_unwatched(report, rest->processes[i]->pid, rest->processes[i]->exe,
                             rest->processes[i]->unwatched);
    for (uint32_t i = 0; i < rest->note_count; i++)
        report_note_text(report, rest->notes[i]);
    run_keep_rest(&run->directory, rest);
    report_free(rest);
}

static bool look(void *context) {
    const struct run *run = context;
    return descendants_look(run->descendants);
}

static void look_often(void *context) {
    const struct run *run = context;
    run_notices_take(run->notices, &run->directory, !run->quiet);
    descendants_look_at_owners(run->descendants);
}

static int wait_and_look(struct run *run, const struct run_child *child) {
    int ledgers_fd = run_directory_watch(&run->directory);
    descendants_expect_ledgers(run->descendants, ledgers_fd);
    int status = run_wait(child, &(struct run_looks){run, look, look_often, ledgers_fd});
    if (ledgers_fd >= 0)
        close(ledgers_fd);
    return status;
}

// Watches it to its end and gathers what was left. Returns an exit status, that of the command
// where it ran (*has_run).
static int watch(struct run *run, struct report *report, bool *has_run) {
    struct run_child child;
    struct run_environment wanted = {.library = run->library,
                                     .directory = &run->directory,
                                     .options = run->options,
                                     .option_count = run->option_count,
                                     .command = &run->visibility};
    char **environment = run_environment_make(&wanted);
    if (!environment)
        return STATUS_FAILED;
    int error = run_start(&child, run->argv, environment);
    run_environment_free(environment);
    if (error < 0)
        return say_cannot_run(run->argv[0], error);
    *has_run = true;
    if (run->visibility.problem)
        descendants_add_unwatched(run->descendants, child.pid, run->program,
                                  run->visibility.problem);
    struct watch_run_options beside = {.interval_ms = run->quiet ? 0 : run->interval_ms,
                                       .leak_after_ms = run->quiet ? 0 : run->leak_after_ms,
                                       .shared = &run->shared,
                                       .directory = &run->directory};
    struct watch_run *watch = watch_run_start(&beside);
    int status = wait_and_look(run, &child);
    descendants_ended(run->descendants, child.pid);
    watch_run_stop(watch);
    run_notices_take(run->notices, &run->directory, !run->quiet);
    run_wait_for_orphans(ORPHANS_WAIT_MS, descendants_any, run->descendants);
    descendants_look(run->descendants);
    run_gather(report, &run->directory);
    descendants_report_ends(run->descendants, report);
    run_keep_ends(&run->directory, run->descendants);
    gather_rest(run, report);
    run_directory_end(&run->directory);
    run_release_signals(&child);
    return WIFSIGNALED(status) ? STATUS_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

// Nothing was there to be watched: a table of zeros would not say why.
static void say_nothing_seen(const struct run *run, const struct report *report) {
    char unwatched[FORMAT_LIMIT_BYTES];
    if (format_unwatched(report, unwatched, sizeof unwatched))
        error_say("no process of %s that could be watched opened a socket; %s", run->argv[0],
                  unwatched);
    else if (run_notices_any(run->notices))
        error_say("no ledger was kept of %s: what its processes leaked they say themselves",
                  run->argv[0]);
    else
        error_say("no process of %s opened a socket", run->argv[0]);
}

static int tell(struct run *run, struct report *report, int commands_status) {
    run->shared.render.program = run->argv[0];
    run->shared.report.progress = !run->quiet;
    run->shared.report.look_around = true;
    format_options_ask_kernel(&run->shared, report, getpid());
    // Without the rules of a pipe that could not be used, which was said: what was seen is told.
    bool is_complete = report_finish(report, &run->shared.report) == 0;
    bool is_nothing_seen = !run->quiet && format_options_text_is_shown(&run->shared) &&
                           report->note_count == 0 &&
                           report->summary.unwatched == report->process_count;
    if (is_nothing_seen)
        say_nothing_seen(run, report);
    int status = format_options_write(&run->shared, report, stderr, run->quiet || is_nothing_seen);
    int leak_status = format_options_status(&run->shared, report);
    if (leak_status == STATUS_OK && run->leaks_elsewhere && run->shared.fail_on)
        leak_status = run->shared.exit_code;
    if (leak_status != STATUS_OK)
        return leak_status;
    if (commands_status)
        return commands_status;
    return is_complete ? status : STATUS_FAILED;
}

static int run_command(struct run *run) {
    if (run_library_find(run->library, sizeof run->library) < 0)
        return STATUS_FAILED;
    look_at_program(run);
    if (run_directory_make(&run->directory, run->ledger_dir) < 0)
        return STATUS_FAILED;
    struct report *report = report_new();
    bool has_run = false;
    run->descendants = descendants_new();
    run->notices = run_notices_new();
    int status = watch(run, report, &has_run);
    if (has_run)
        status = tell(run, report, status);
    else
        run_directory_end(&run->directory);
    descendants_free(run->descendants);
    run_notices_free(run->notices);
    report_free(report);
    return status;
}

static int run_main(int argc, char **argv) {
    struct run *run = must_allocate(1, sizeof *run);
    run->shared = (struct format_options)FORMAT_OPTIONS_DEFAULT;
    bool wants_help = false;
    int status = parse(run, argc, argv, &wants_help);
    if (wants_help)
        status = command_help(&command_run);
    else if (status == STATUS_OK)
        status = run_command(run);
    format_options_free(&run->shared);
    free(run->options);
    free(run->signal_option);
    free(run);
    return status;
}

const struct command command_run = {
    .name = name,
    .usage = "[options] [--] COMMAND [ARGUMENT...]",
    .summary = "run a command and report the sockets that it and its children leak",
    .about = "Runs COMMAND with libsockleak.so preloaded into it and every process that it\n"
             "starts, waits for it, and reports on stderr the sockets that were not closed,\n"
             "with the code that opened them and the code that read end of stream. Processes\n"
             "that outlive COMMAND are looked at as they are then. The standard streams, the\n"
             "terminal and job control are COMMAND's own; signals are passed on.\n"
             "\n"
             "Exit status: that of COMMAND (128+N if signal N ended it) where nothing\n"
             "leaked, 23 where something did; 127 where COMMAND is not found, 126 where it\n"
             "cannot be run, 2 for a mistake in the options.\n",
    .options = "  -q, --quiet             no report on stderr, only the exit status and --output\n"
               "      --ledger-dir=DIR    keep the ledgers there, for `sockleak report DIR`\n"
               "      --option NAME=VALUE for the library (SOCKLEAK_OPTIONS=help=1 lists them)\n"
               "      --signal=NAME       a process reports when it gets this signal: USR1\n"
               "                          (default), USR2, ALRM, URG, WINCH, IO, PWR, none\n"
               "      --interval=SECONDS  say every so often on stderr how the findings grow\n"
               "      --leak-after=TIME   report on stderr as soon as a socket of a live process\n"
               "                          is in CLOSE_WAIT for so long; once a minute at most\n"
               "  -h, --help              this help\n",
    .has_format_options = true,
    .examples = "  sockleak run -- make test\n"
                "  sockleak run --format=junit:leaks.xml ./server --port 8080\n"
                "  sockleak run --baseline=known.json --fail-on=close-wait -- pytest\n",
    .main = run_main,
};
