#include "format_options.h"
#include "format.h"
#include "format_clashes.h"
#include "options.h"
#include "suppress.h"
#include "time_wait.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char format_options_help[] =
    "  --format=FORMAT[:FILE]  text, json, junit, sarif, github, folded or pprof; to\n"
    "                          FILE, besides the text; may be repeated\n"
    "  -o, --output=FILE       what has no file of its own goes there\n"
    "  --suppressions=FILE     leave out what matches leak:GLOB, peer:GLOB or\n"
    "                          verdict:NAME; may be repeated\n"
    "  --baseline=FILE         only findings that are not in this JSON report fail;\n"
    "                          may be repeated\n"
    "  --fail-on=WHAT          close-wait, dead (both are the default), all or none\n"
    "  --exit-code=N           exit status of a leak, 1 to 255; default 23\n"
    "  --show=leaks|all        all: open sockets that are no leaks, too\n"
    "  --max-sockets=N         sockets listed per finding, default 10\n"
    "  --explain               draw how each connection ended, and what is missing\n"
    "  --sites                 a table of call sites: opened, closed, lifetimes\n"
    "  --time-wait             who closes first, TIME_WAIT and local ports, also\n"
    "                          where it does not matter\n"
    "  --color=auto|always|never\n"
    "  -v, --verbose           list unused suppressions and known findings, too\n"
    "  --suggest               print suppressions that would silence what is reported\n";

// --- one option ---------------------------------------------------------------------------------

static int accept_format(struct format_options *options, const char *command,
                         const char *argument) {
    char name[16];
    const char *colon = strchr(argument, ':');
    size_t len = colon ? (size_t)(colon - argument) : strlen(argument);
    struct format_output output = {.argument = argument, .file = colon ? colon + 1 : NULL};
    snprintf(name, sizeof name, "%.*s", len < sizeof name ? (int)len : 0, argument);
    if (format_named(name, &output.format) < 0)
        return error_usage(command,
                           "--format: no format is named '%.*s': text, json, junit, "
                           "sarif, github, folded and pprof are",
                           (int)len, argument);
    if (colon && !colon[1])
        return error_usage(command, "--format=%s: a file name must follow the colon", argument);
    options->outputs = must_reallocate(options->outputs, options->output_count + 1, sizeof output);
    options->outputs[options->output_count++] = output;
    options->report.sites |= output.format == FORMAT_JSON; // it has them all
    return 0;
}

static int accept_fail_on(struct format_options *options, const char *command,
                          const char *argument) {
    static const struct {
        const char *name;
        uint32_t mask;
    } words[] = {{"close-wait", FAIL_ON_CLOSE_WAIT},
                 {"dead", FAIL_ON_DEAD},
                 {"all", FAIL_ON_CLOSE_WAIT | FAIL_ON_DEAD | FAIL_ON_OPEN},
                 {"none", 0}};
    uint32_t mask = 0;
    bool has_none = false;
    for (const char *at = argument;; at++) {
        size_t len = strcspn(at, ","), i, count = sizeof words / sizeof *words;
        for (i = 0; i < count; i++)
            if (strlen(words[i].name) == len && strncmp(words[i].name, at, len) == 0)
                break;
        if (i == count)
            return error_usage(command, "--fail-on: '%.*s' is none of close-wait, dead, all, none",
                               (int)len, at);
        mask |= words[i].mask;
        has_none |= words[i].mask == 0;
        at += len;
        if (!*at)
            break;
    }
    if (has_none && mask)
        return error_usage(command, "--fail-on=%s: 'none' goes with no other", argument);
    options->fail_on = mask;
    options->status_asked = true;
    return 0;
}

static int accept_file(const char *command, const char *option, const char *argument,
                       const char **out) {
    return option_accept_name(command, option, argument, "a file name", out);
}

// One more of the list that *count counts.
static int append_file(const char *command, const char *option, const char *argument,
                       const char ***list, uint32_t *count) {
    *list = must_reallocate(*list, *count + 1, sizeof **list);
    int status = accept_file(command, option, argument, &(*list)[*count]);
    *count += status == STATUS_OK;
    return status;
}

static int accept_input(struct format_options *options, const char *command, int option,
                        const char *argument) {
    struct report_options *report = &options->report;
    int status;
    if (option == OPTION_SUPPRESSIONS) {
        status = append_file(command, "suppressions", argument, &options->suppressions,
                             &report->suppression_count);
        report->suppression_files = options->suppressions;
        return status;
    }
    status =
        append_file(command, "baseline", argument, &options->baselines, &report->baseline_count);
    report->baseline_files = options->baselines;
    options->status_asked = true;
    return status;
}

static int accept_value(struct format_options *options, const char *command, int option,
                        const char *argument) {
    static const char *const shows[] = {"leaks", "all", NULL};
    uint64_t number = 0;
    unsigned word = 0;
    int status;
    switch (option) {
    case OPTION_EXIT_CODE:
        status = option_accept_number(command, "exit-code", argument, "a number from 1 to 255", 1,
                                      255, &number);
        options->exit_code = (int)number;
        options->status_asked = true;
        return status;
    case OPTION_SHOW:
        status = option_accept_word(command, "show", argument, shows, &word);
        options->render.show_all = word == 1;
        return status;
    case OPTION_MAX_SOCKETS:
        status = option_accept_number(command, "max-sockets", argument,
                                      "a number from 0 to 1000000000", 0, 1000000000, &number);
        options->render.max_sockets = (uint32_t)number;
        return status;
    case OPTION_COLOR:
        status = option_accept_word(command, "color", argument, terminal_color_names, &word);
        options->color = (enum color_when)word;
        return status;
    default:
        return error_usage(command, "unknown option");
    }
}

int format_options_accept(struct format_options *options, const char *command, int option,
                          const char *argument) {
    switch (option) {
    case OPTION_FORMAT:
        return accept_format(options, command, argument);
    case 'o':
    case OPTION_OUTPUT:
        return accept_file(command, "output", argument, &options->output);
    case OPTION_SUPPRESSIONS:
    case OPTION_BASELINE:
        return accept_input(options, command, option, argument);
    case OPTION_FAIL_ON:
        return accept_fail_on(options, command, argument);
    case 'v':
    case OPTION_VERBOSE:
        options->render.verbose = true;
        return 0;
    case OPTION_SUGGEST:
        options->suggest = true;
        return 0;
    case OPTION_EXPLAIN:
        options->render.explain = true;
        return 0;
    case OPTION_SITES:
        options->render.sites = options->report.sites = true;
        return 0;
    case OPTION_TIME_WAIT:
        options->render.time_wait = options->report.sites = true;
        return 0;
    default:
        return accept_value(options, command, option, argument);
    }
}

// --- all of them --------------------------------------------------------------------------------

// A pipe, as of <(...), can be read only once: when it is needed. What is no file to read, as a
// directory, is no different then.
static bool can_be_read_twice(const char *path) {
    struct stat status;
    bool is_read_once = stat(path, &status) == 0 && !S_ISREG(status.st_mode) &&
                        !S_ISDIR(status.st_mode) && !S_ISSOCK(status.st_mode);
    return !is_read_once || access(path, R_OK) < 0;
}

// A mistake in these files must show before a command is run for an hour.
static int check_files(const struct format_options *options, const char *command) {
    struct report *scratch = report_new();
    int result = 0;
    for (uint32_t i = 0; i < options->report.suppression_count; i++)
        if (can_be_read_twice(options->suppressions[i]) &&
            suppress_load(scratch, options->suppressions[i]) < 0)
            result =
                error_usage(command, "--suppressions=%s cannot be used", options->suppressions[i]);
    for (uint32_t i = 0; i < options->report.baseline_count; i++)
        if (report_add_path(scratch, options->baselines[i]) < 0)
            result = error_usage(command, "--baseline=%s cannot be used", options->baselines[i]);
    report_free(scratch);
    return result;
}

int format_options_check(const struct format_options *options, const char *command,
                         char *const *inputs) {
    uint32_t without_file = 0;
    for (uint32_t i = 0; i < options->output_count; i++)
        without_file += options->outputs[i].file == NULL;
    if (without_file > 1 && options->output)
        return error_usage(command,
                           "only one format can go to --output=%s: name a file for the others, as "
                           "in --format=json:FILE",
                           options->output);
    if (without_file > 1)
        return error_usage(command, "only one format can go to the standard output: name a file "
                                    "for the others, as in --format=json:FILE");
    int status = format_clashes_check(options, command, inputs);
    return status == STATUS_OK ? check_files(options, command) : status;
}

static int write_to(const struct format_options *options, const struct report *report,
                    enum format format, FILE *stream) {
    struct render_options render = options->render;
    render.color = format == FORMAT_TEXT && terminal_has_color(stream, options->color);
    render.width = terminal_width(stream);
    if (format == FORMAT_PPROF && isatty(fileno(stream))) {
        error_say("a pprof profile is binary, and this is a terminal: use --format=pprof:FILE");
        return STATUS_FAILED;
    }
    if (options->suggest && format == FORMAT_TEXT) {
        suppress_suggest(report, stream);
        return fflush(stream) == 0 ? STATUS_OK : STATUS_FAILED;
    }
    return report_write(report, format, stream, &render) < 0 ? STATUS_FAILED : STATUS_OK;
}

static int write_file(const struct format_options *options, const struct report *report,
                      enum format format, const char *path) {
    FILE *file = fopen(path, "we");
    if (!file) {
        error_say("%s: cannot write the report: %s", path, strerror(errno));
        return STATUS_FAILED;
    }
    int status = write_to(options, report, format, file);
    if (fclose(file) != 0 && status == STATUS_OK) {
        error_say("%s: cannot write the report: %s", path, strerror(errno));
        status = STATUS_FAILED;
    }
    return status;
}

static bool tells_limits(enum format format) {
    return format != FORMAT_FOLDED && format != FORMAT_PPROF;
}

static void warn_of(void *context, const char *limit) {
    (void)context;
    error_warn("%s", limit);
}

bool format_options_text_is_shown(const struct format_options *options) {
    for (uint32_t i = 0; i < options->output_count; i++)
        if (!options->outputs[i].file)
            return options->outputs[i].format == FORMAT_TEXT && !options->output;
    return !options->output;
}

int format_options_write(const struct format_options *options, const struct report *report,
                         FILE *stream, bool quiet) {
    int status = STATUS_OK;
    bool has_main = false, is_told = false;
    for (uint32_t i = 0; i < options->output_count; i++) {
        const struct format_output *output = &options->outputs[i];
        const char *file = output->file ? output->file : options->output;
        int this = STATUS_OK;
        has_main |= output->file == NULL;
        is_told |= tells_limits(output->format);
        if (file)
            this = write_file(options, report, output->format, file);
        else if (!quiet)
            this = write_to(options, report, output->format, stream);
        status = status ? status : this;
    }
    if (has_main && !is_told && !quiet)
        format_each_limit(report, warn_of, NULL);
    if (has_main)
        return status;
    int this = STATUS_OK;
    if (options->output)
        this = write_file(options, report, FORMAT_TEXT, options->output);
    else if (!quiet)
        this = write_to(options, report, FORMAT_TEXT, stream);
    return status ? status : this;
}

void format_options_ask_kernel(const struct format_options *options, struct report *report,
                               pid_t pid) {
    if (!options->render.time_wait && !time_wait_is_likely(report))
        return;
    int error = time_wait_ask(report, pid);
    if (error < 0 && options->render.time_wait)
        error_warn("what the kernel has in TIME_WAIT is not known: %s", strerror(-error));
}

int format_options_status(const struct format_options *options, const struct report *report) {
    return report_failures(report, options->fail_on) ? options->exit_code : STATUS_OK;
}

void format_options_free(struct format_options *options) {
    free(options->outputs);
    free(options->suppressions);
    free(options->baselines);
    options->outputs = NULL;
    options->suppressions = options->baselines = NULL;
}
