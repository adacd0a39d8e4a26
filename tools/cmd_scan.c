// sockleak scan: every process of this machine, preloaded or not.
#include "commands.h"
#include "errors.h"
#include "options.h"
#include "scan.h"
#include "terminal.h"
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum scan_option {
    OPTION_PID = 1000,
    OPTION_PORT,
    OPTION_OLDER,
    OPTION_WATCH,
    OPTION_FAIL_OLDER,
    OPTION_JSON,
    OPTION_FORMAT,
    OPTION_COLOR,
    OPTION_PEERS
};
enum {
    PEERS_SHOWN = 3
};

static const char name[] = "scan";

struct scan_options {
    struct scan_filter filter;
    struct scan_look look;
    enum color_when color;
    bool json;
    uint64_t watch_ms;      // 0: once
    uint64_t fail_older_ms; // UINT64_MAX: never
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"pid", required_argument, NULL, OPTION_PID},
    {"port", required_argument, NULL, OPTION_PORT},
    {"older", required_argument, NULL, OPTION_OLDER},
    {"watch", optional_argument, NULL, OPTION_WATCH},
    {"fail-older", required_argument, NULL, OPTION_FAIL_OLDER},
    {"json", no_argument, NULL, OPTION_JSON},
    {"format", required_argument, NULL, OPTION_FORMAT},
    {"color", required_argument, NULL, OPTION_COLOR},
    {"peers", required_argument, NULL, OPTION_PEERS},
    {NULL, 0, NULL, 0}};

// --- options ------------------------------------------------------------------------------------

static int accept_number(struct scan_options *options, int c) {
    uint64_t number = 0;
    int status;
    switch (c) {
    case OPTION_PID:
        status = option_accept_number(name, "pid", optarg, "a process id", 1, INT32_MAX, &number);
        options->filter.pid = (pid_t)number;
        return status;
    case OPTION_PORT:
        status =
            option_accept_number(name, "port", optarg, "a port number", 1, UINT16_MAX, &number);
        options->filter.port = (uint16_t)number;
        return status;
    default:
        status = option_accept_number(name, "peers", optarg, "a number from 0 to 4294967295", 0,
                                      UINT32_MAX, &number);
        options->look.peers_max = (uint32_t)number;
        return status;
    }
}

static int accept(struct scan_options *options, int c, char **argv) {
    static const char *const formats[] = {"text", "json", NULL};
    unsigned word = 0;
    int status;
    switch (c) {
    case OPTION_PID:
    case OPTION_PORT:
    case OPTION_PEERS:
        return accept_number(options, c);
    case OPTION_OLDER:
        return option_accept_time(name, "older", optarg, &options->filter.older_ms);
    case OPTION_FAIL_OLDER:
        return option_accept_time(name, "fail-older", optarg, &options->fail_older_ms);
    case OPTION_WATCH:
        return option_accept_watch(name, optarg, &options->watch_ms);
    case OPTION_JSON:
        options->json = true;
        return STATUS_OK;
    case OPTION_FORMAT:
        status = option_accept_word(name, "format", optarg, formats, &word);
        options->json = word == 1;
        return status;
    case OPTION_COLOR:
        status = option_accept_word(name, "color", optarg, terminal_color_names, &word);
        options->color = (enum color_when)word;
        return status;
    default:
        return option_error(name, c, argv, long_options);
    }
}

// --- looking ------------------------------------------------------------------------------------

static int say_failure(const struct scan_options *options, int error) {
    pid_t pid = options->filter.pid;
    if (pid && error == -ESRCH)
        error_say("no process %d", (int)pid);
    else if (pid && (error == -EACCES || error == -EPERM))
        error_say(
            "process %d may not be looked at: it is another user's, has more rights, or lives "
            "in another network namespace; scan as root (sudo sockleak scan --pid %d)",
            (int)pid, (int)pid);
    else
        error_say("the kernel does not list its sockets (netlink sock_diag): %s", strerror(-error));
    return STATUS_FAILED;
}

static void write_text(const struct scan_options *options, const struct scan_result *result) {
    struct scan_look look = options->look;
    struct terminal_page page;
    look.color = terminal_has_color(stdout, options->color);
    look.width = terminal_width(stdout);
    scan_write_text(result, &look, terminal_page_begin(&page, stdout));
    terminal_page_end(&page);
}

static int look_once(const struct scan_options *options) {
    struct scan_result result;
    int error = scan_take(&options->filter, &result);
    if (error < 0)
        return say_failure(options, error);
    if (options->watch_ms && !options->json && isatty(STDOUT_FILENO))
        fputs("\033[H\033[2J", stdout);
    if (options->json)
        scan_write_json(&result, options->watch_ms != 0, stdout);
    else
        write_text(options, &result);
    bool fails = result.oldest_ms > options->fail_older_ms ||
                 result.younger_oldest_ms > options->fail_older_ms;
    scan_free(&result);
    return command_finish_output(fails ? STATUS_LEAK : STATUS_OK);
}

static int look(const struct scan_options *options) {
    int status;
    do {
        status = look_once(options);
        struct timespec pause = {(time_t)(options->watch_ms / 1000),
                                 (long)(options->watch_ms % 1000) * 1000000};
        if (options->watch_ms && status == STATUS_OK)
            nanosleep(&pause, NULL);
    } while (options->watch_ms && status == STATUS_OK);
    return status;
}

static int scan_main(int argc, char **argv) {
    struct scan_options options = {.look.peers_max = PEERS_SHOWN, .fail_older_ms = UINT64_MAX};
    int c, status = STATUS_OK;
    opterr = 0;
    while (status == STATUS_OK && (c = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
        if (c == 'h')
            return command_help(&command_scan);
        status = accept(&options, c, argv);
    }
    if (status == STATUS_OK && optind < argc)
        status =
            error_usage(name, "'%s' is too much: processes are named with --pid", argv[optind]);
    return status == STATUS_OK ? look(&options) : status;
}

const struct command command_scan = {
    .name = name,
    .usage = "[options]",
    .summary = "look at every process of this machine for sockets in CLOSE_WAIT",
    .about = "Lists the processes that hold sockets in CLOSE_WAIT, whatever they were\n"
             "started with: how many, how long ago the oldest one's peer closed, on how many\n"
             "the program has read end of stream or has not, how many hold data that it has\n"
             "not read, and the peers. Then TIME_WAIT by destination, with the share of the\n"
             "local ports for outgoing connections that it takes. What hurts most comes\n"
             "first. Nothing needs to be preloaded, no process is touched.\n"
             "\n"
             "Exit status: 0; 23 with --fail-older where something is older; 1 where it\n"
             "could not look.\n",
    .options = "      --pid=PID           this process only, without TIME_WAIT\n"
               "      --port=PORT         this port only, ours or the peer's\n"
               "      --older=TIME        in CLOSE_WAIT for at least so long: 500ms, 30s, 5m, 2h\n"
               "      --fail-older=TIME   exit status 23 when one is in CLOSE_WAIT for longer,\n"
               "                          also one that --older leaves out\n"
               "      --watch[=SECONDS]   again and again, every 2 seconds; with --fail-older\n"
               "                          until then\n"
               "      --peers=N           peers listed for each process (3)\n"
               "      --format=text|json  as a table (default) or as JSON; --json is the same\n"
               "      --json\n"
               "      --color=auto|always|never\n"
               "  -h, --help              this help\n",
    .examples = "  sockleak scan --older=1m\n"
                "  sockleak scan --port 5432 --json\n"
                "  sockleak scan --fail-older=10m >/dev/null || alert\n",
    .main = scan_main,
};
