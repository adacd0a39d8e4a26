// sockleak report: any time later, what ledgers and JSON reports say.
#include "commands.h"
#include "errors.h"
#include "format_options.h"
#include "options.h"

static const struct option long_options[] = {
    {"quiet", no_argument, NULL, 'q'}, {"help", no_argument, NULL, 'h'}, FORMAT_LONG_OPTIONS, {0}};

// All inputs that can be read are; one that cannot makes the status, and so does one with nothing
// in it: it would look like a clean one.
static int gather(struct report *report, char **paths) {
    int status = STATUS_OK;
    for (; *paths; paths++) {
        uint32_t before = report->process_count + report->repeated_count;
        if (report_add_path(report, *paths) < 0) {
            status = STATUS_FAILED;
        } else if (report->process_count + report->repeated_count == before) {
            error_say("%s: no ledger (*.ledger) and no JSON report of a process is there", *paths);
            status = STATUS_FAILED;
        }
    }
    return status;
}

static int render(struct report *report, const struct format_options *options, bool quiet) {
    int status = report_finish(report, &options->report) < 0 ? STATUS_FAILED : STATUS_OK;
    int written = format_options_write(options, report, stdout, quiet);
    status = status ? status : written;
    if (status == STATUS_OK && options->status_asked)
        status = format_options_status(options, report);
    return status;
}

static int report_paths(char **paths, struct format_options *options, bool quiet) {
    struct report *report = report_new();
    options->report.progress = !quiet;
    int status = gather(report, paths);
    if (report->is_incomplete)
        status = STATUS_FAILED;
    if (report->process_count) {
        int rendered = render(report, options, quiet);
        status = status ? status : rendered;
    }
    report_free(report);
    return command_finish_output(status);
}

static int main_report(int argc, char **argv) {
    struct format_options options = FORMAT_OPTIONS_DEFAULT;
    bool quiet = false;
    int c, status = STATUS_OK;
    opterr = 0;
    while (status == STATUS_OK &&
           (c = getopt_long(argc, argv, ":qh" FORMAT_SHORT_OPTIONS, long_options, NULL)) != -1)
        switch (c) {
        case 'q':
            quiet = true;
            break;
        case 'h':
            format_options_free(&options);
            return command_help(&command_report);
        case '?':
        case ':':
            status = option_error("report", c, argv, long_options);
            break;
        default:
            status = format_options_accept(&options, "report", c, optarg);
        }
    if (status == STATUS_OK)
        status = format_options_check(&options, "report", argv + optind);
    if (status == STATUS_OK && optind == argc)
        status = error_usage("report", "no ledger, JSON report or directory given");
    if (status == STATUS_OK)
        status = report_paths(argv + optind, &options, quiet);
    format_options_free(&options);
    return status;
}

const struct command command_report = {
    .name = "report",
    .usage = "[options] FILE|DIR...",
    .summary = "show what ledgers or earlier JSON reports say",
    .about = "Renders ledgers (PID-STARTTIME.ledger, kept by 'sockleak run --ledger-dir' or\n"
             "by the library's option ledger_dir), reports of --format=json, and directories\n"
             "of either. Several are merged: the same leak in several processes is shown\n"
             "once.\n"
             "\n"
             "The exit status is 0. Only with --fail-on, --baseline or --exit-code is it 23\n"
             "(or what --exit-code says) where something leaked. It is 1 where an input\n"
             "could not be read, or lacks sockets that it should have.\n",
    .options = "  -q, --quiet             write only the formats that have a file\n"
               "  -h, --help\n",
    .has_format_options = true,
    .examples = "  sockleak report /tmp/ledgers\n"
                "  sockleak report run.json --format=sarif:leaks.sarif\n"
                "  sockleak report new.json --baseline=old.json\n"
                "  sockleak report run.ledger --suggest >> suppressions.txt\n",
    .main = main_report,
};
