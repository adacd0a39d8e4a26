// sockleak dump PID: a live process, from outside.
#include "commands.h"
#include "errors.h"
#include "format_options.h"
#include "inspect.h"
#include "options.h"
#include "procfs.h"
#include "threads.h"
#include "watch.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char name[] = "dump";

enum dump_option {
    OPTION_WATCH = OPTION_LAST,
    OPTION_THREADS
};

struct dump {
    struct format_options shared;
    pid_t pid;
    uint64_t watch_ms; // 0: once
    bool threads;
};

static const struct option long_options[] = {{"help", no_argument, NULL, 'h'},
                                             {"watch", optional_argument, NULL, OPTION_WATCH},
                                             {"threads", no_argument, NULL, OPTION_THREADS},
                                             FORMAT_LONG_OPTIONS,
                                             {NULL, 0, NULL, 0}};

// --- once ---------------------------------------------------------------------------------------

// A finished report of the process; NULL, having said why.
static struct report *take_report(const struct dump *dump) {
    struct report *report = report_new();
    bool is_taken = inspect_process(dump->pid, name, report) == STATUS_OK;
    int error = is_taken && dump->threads ? threads_add(report, dump->pid) : 0;
    if (error < 0)
        error_say("process %d: its threads cannot be looked at: %s", (int)dump->pid,
                  strerror(-error));
    struct report_options options = dump->shared.report;
    options.look_around = true;
    if (is_taken && error == 0)
        format_options_ask_kernel(&dump->shared, report, dump->pid);
    if (is_taken && error == 0 && report_finish(report, &options) == 0)
        return report;
    report_free(report);
    return NULL;
}

static int dump_once(const struct dump *dump) {
    struct report *report = take_report(dump);
    if (!report)
        return STATUS_FAILED;
    int status = format_options_write(&dump->shared, report, stdout, false);
    if (status == STATUS_OK)
        status = command_finish_output(STATUS_OK);
    if (status == STATUS_OK && dump->shared.status_asked)
        status = format_options_status(&dump->shared, report);
    report_free(report);
    return status;
}

// --- again and again ----------------------------------------------------------------------------

static int look(const struct dump *dump, struct watch *watch, const struct watch_style *style) {
    struct report *report = take_report(dump);
    if (!report)
        return STATUS_FAILED;
    watch_look(watch, report, style, stdout);
    int status = command_finish_output(STATUS_OK);
    if (status == STATUS_OK && dump->shared.status_asked)
        status = format_options_status(&dump->shared, report);
    report_free(report);
    return status;
}

// Until the process ends, the output takes no more, or what --fail-on names has come true.
static int dump_watch(const struct dump *dump) {
    struct watch *watch = watch_new();
    struct watch_style style = {.front = "",
                                .color = terminal_has_color(stdout, dump->shared.color),
                                .json = dump->shared.output_count &&
                                        dump->shared.outputs[0].format == FORMAT_JSON};
    struct timespec next;
    struct procfs_status first;
    int status = procfs_status(dump->pid, &first) < 0 ? STATUS_FAILED : STATUS_OK;
    clock_gettime(CLOCK_MONOTONIC, &next);
    while (status == STATUS_OK) {
        status = look(dump, watch, &style);
        next.tv_sec += (time_t)(dump->watch_ms / 1000);
        next.tv_nsec += (long)(dump->watch_ms % 1000) * 1000000;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        if (status == STATUS_OK)
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        if (!procfs_runs(dump->pid, first.start_ticks))
            break;
    }
    watch_free(watch);
    return status;
}

// --- the command --------------------------------------------------------------------------------

static int accept(struct dump *dump, int c, char **argv) {
    if (c == OPTION_WATCH)
        return option_accept_watch(name, optarg, &dump->watch_ms);
    if (c == OPTION_THREADS) {
        dump->threads = true;
        return STATUS_OK;
    }
    return c == '?' || c == ':' ? option_error(name, c, argv, long_options)
                                : format_options_accept(&dump->shared, name, c, optarg);
}

// What --watch, which shows how findings grow, has no place for.
static const char *not_to_be_watched(const struct dump *dump) {
    const struct format_options *shared = &dump->shared;
    return dump->threads              ? "threads"
           : shared->render.sites     ? "sites"
           : shared->render.explain   ? "explain"
           : shared->render.time_wait ? "time-wait"
           : shared->suggest          ? "suggest"
                                      : NULL;
}

static int check(const struct dump *dump) {
    const struct format_options *shared = &dump->shared;
    const char *other = not_to_be_watched(dump);
    bool is_plain =
        shared->output_count == 0 ||
        (shared->output_count == 1 && !shared->outputs[0].file &&
         (shared->outputs[0].format == FORMAT_TEXT || shared->outputs[0].format == FORMAT_JSON));
    if (dump->watch_ms && other)
        return error_usage(name, "--watch and --%s do not go together", other);
    if (dump->watch_ms && (!is_plain || shared->output))
        return error_usage(name, "--watch writes text or JSON to the standard output only");
    return format_options_check(shared, name, NULL);
}

static int parse(struct dump *dump, int argc, char **argv, bool *wants_help) {
    int c, status = STATUS_OK;
    opterr = 0;
    while (status == STATUS_OK && !*wants_help &&
           (c = getopt_long(argc, argv, ":h" FORMAT_SHORT_OPTIONS, long_options, NULL)) != -1) {
        if (c == 'h')
            *wants_help = true;
        else
            status = accept(dump, c, argv);
    }
    if (status != STATUS_OK || *wants_help)
        return status;
    if ((status = check(dump)) != STATUS_OK)
        return status;
    return option_pid(name, argc, argv, &dump->pid);
}

static int dump_main(int argc, char **argv) {
    struct dump dump = {.shared = FORMAT_OPTIONS_DEFAULT};
    bool wants_help = false;
    int status = parse(&dump, argc, argv, &wants_help);
    if (wants_help)
        status = command_help(&command_dump);
    else if (status == STATUS_OK && (status = inspect_check(dump.pid, name)) == STATUS_OK)
        status = dump.watch_ms ? dump_watch(&dump) : dump_once(&dump);
    format_options_free(&dump.shared);
    return status;
}

const struct command command_dump = {
    .name = name,
    .usage = "[options] PID",
    .summary = "look at a live process, without stopping or signalling it",
    .about = "Reads the ledger of a process that runs under libsockleak.so, and joins it\n"
             "with what the kernel knows of its sockets now. A process that was not started\n"
             "with the library shows the kernel's view: states, ages, peers, and whether end\n"
             "of stream was read. What is in its state for less than a second is no leak\n"
             "yet.\n"
             "\n"
             "Needs the right to trace the process: the same user, or root. The exit status\n"
             "is 0 whatever is found, unless --fail-on, --exit-code or --baseline asks for\n"
             "another.\n",
    .options = "      --watch[=SECONDS]   again and again, every 2 seconds: how each finding\n"
               "                          grows; with --fail-on, until that comes true\n"
               "      --threads           which threads are blocked in which call, and their\n"
               "                          stacks; a thread may be stopped for less than a\n"
               "                          millisecond\n"
               "  -h, --help              this help\n",
    .has_format_options = true,
    .examples = "  sockleak dump 4711\n"
                "  sockleak dump --format=json --show=all 4711\n"
                "  sockleak dump --watch=10s 4711\n",
    .main = dump_main,
};
