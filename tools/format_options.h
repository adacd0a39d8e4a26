// Options that `run`, `report` and `dump` share, and what becomes of a finished report.
//
//     struct format_options shared = FORMAT_OPTIONS_DEFAULT;
//     static const struct option long_options[] = {{"quiet", no_argument, NULL, 'q'},
//                                                  FORMAT_LONG_OPTIONS, {0}};
//     while ((c = getopt_long(...)) != -1)
//         switch (c) {
//         case 'q': ...
//         default:
//             if ((status = format_options_accept(&shared, "run", c, optarg)) != 0)
//                 return status; // said why; STATUS_USAGE
//         }
//     if ((status = format_options_check(&shared, "run", NULL)) != 0)
//         return status;
//     ...
//     report_finish(report, &shared.report);
//     status = format_options_write(&shared, report, stderr, false);
//     format_options_free(&shared);
#ifndef SOCKLEAK_TOOLS_FORMAT_OPTIONS_H
#define SOCKLEAK_TOOLS_FORMAT_OPTIONS_H

#include "errors.h"
#include "model.h"
#include "terminal.h"
#include <getopt.h>
#include <sys/types.h>

enum format_option { // values of getopt_long, above all characters
    OPTION_FORMAT = 1000,
    OPTION_OUTPUT,
    OPTION_EXIT_CODE,
    OPTION_SUPPRESSIONS,
    OPTION_BASELINE,
    OPTION_FAIL_ON,
    OPTION_SHOW,
    OPTION_MAX_SOCKETS,
    OPTION_COLOR,
    OPTION_VERBOSE,
    OPTION_SUGGEST,
    OPTION_EXPLAIN,
    OPTION_SITES,
    OPTION_TIME_WAIT,
    OPTION_LAST // a subcommand's own may follow
};

// For a table of struct option. -o is --output, -v is --verbose: add "o:v" to the short options.
#define FORMAT_LONG_OPTIONS                                                                        \
    {"format", required_argument, NULL, OPTION_FORMAT},                                            \
        {"output", required_argument, NULL, OPTION_OUTPUT},                                        \
        {"exit-code", required_argument, NULL, OPTION_EXIT_CODE},                                  \
        {"suppressions", required_argument, NULL, OPTION_SUPPRESSIONS},                            \
        {"baseline", required_argument, NULL, OPTION_BASELINE},                                    \
        {"fail-on", required_argument, NULL, OPTION_FAIL_ON},                                      \
        {"show", required_argument, NULL, OPTION_SHOW},                                            \
        {"max-sockets", required_argument, NULL, OPTION_MAX_SOCKETS},                              \
        {"color", required_argument, NULL, OPTION_COLOR},                                          \
        {"explain", no_argument, NULL, OPTION_EXPLAIN},                                            \
        {"sites", no_argument, NULL, OPTION_SITES},                                                \
        {"time-wait", no_argument, NULL, OPTION_TIME_WAIT},                                        \
        {"verbose", no_argument, NULL, OPTION_VERBOSE}, {                                          \
        "suggest", no_argument, NULL, OPTION_SUGGEST                                               \
    }

#define FORMAT_SHORT_OPTIONS "o:v"

// Their part of a help text, a line each.
extern const char format_options_help[];

struct format_output {
    enum format format;
    const char *argument; // of --format
    const char *file;     // NULL: --output, or the stream given to format_options_write()
};

struct format_options {
    struct report_options report;
    struct render_options render;
    struct format_output *outputs; // none: text
    uint32_t output_count;
    const char *output; // --output
    const char **suppressions, **baselines;
    uint32_t fail_on;  // enum fail_on
    int exit_code;     // of a leak
    bool status_asked; // --fail-on, --exit-code or --baseline was given
    enum color_when color;
    bool suggest;
};

#define FORMAT_OPTIONS_DEFAULT                                                                     \
    {                                                                                              \
        .report = REPORT_OPTIONS_DEFAULT, .render = RENDER_OPTIONS_DEFAULT,                        \
        .fail_on = FAIL_ON_DEFAULT, .exit_code = STATUS_LEAK                                       \
    }

// Takes one option as getopt_long returned it; `argument` must stay (argv does). Returns 0, or
// STATUS_USAGE having said why, also for an option that is none of these.
int format_options_accept(struct format_options *options, const char *command, int option,
                          const char *argument);

// What only shows when all are read: two outputs to one place, or one to what is read; suppressions
// and baselines that cannot be used. `inputs`, which NULL ends, are what the command reads besides;
// NULL where there are none. Returns as above.
int format_options_check(const struct format_options *options, const char *command,
                         char *const *inputs);

// "text" ... to its number. Returns 0 or -EINVAL; says nothing.
int format_named(const char *name, enum format *out);

// Whether format_options_write() writes the text to `stream`, where it is not told to be quiet.
bool format_options_text_is_shown(const struct format_options *options);

// Writes a finished report to where the options say. What has no file goes to `stream`; where all
// formats have a file, the text goes there as well. With `quiet`, only what has a file. Colour and
// width are found out here. Returns an exit status: STATUS_OK, or STATUS_FAILED where a file could
// not be written (said why).
int format_options_write(const struct format_options *options, const struct report *report,
                         FILE *stream, bool quiet);

// options->exit_code where the finished report fails by --fail-on, else STATUS_OK.
int format_options_status(const struct format_options *options, const struct report *report);

// For a command whose processes run, or have just ended: asks the kernel what is in TIME_WAIT in
// the network namespace of `pid`, where the report is to tell of it. Before report_finish().
void format_options_ask_kernel(const struct format_options *options, struct report *report,
                               pid_t pid);

void format_options_free(struct format_options *options);

#endif
