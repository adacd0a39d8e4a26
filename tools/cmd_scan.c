// sockleak scan: every process of this machine, preloaded or not.
#include "commands.h"
#include "errors.h"
#include "scan.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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
    PEERS_SHOWN = 3,
    WATCH_MS = 2000,
    WATCH_MIN_MS = 100
};

static const char name[] = "scan";

struct scan_options {
    struct scan_filter filter;
    struct scan_look look;
    const char *color;
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

static int bad_value(const char *option, const char *value, const char *wanted) {
    return error_usage(name, "--%s %s: is not %s", option, value, wanted);
}

static int accept_number(const char *option, uint64_t max, const char *wanted, uint64_t *out) {
    return option_number(optarg, 1, max, out) ? STATUS_OK : bad_value(option, optarg, wanted);
}

static int accept_time(const char *option, uint64_t *out_ms) {
    return option_time(optarg, out_ms)
               ? STATUS_OK
               : bad_value(option, optarg, "a time such as 500ms, 30s, 5m, 2h or 1d");
}

static int accept_word(const char *option, const char *const *words, const char **out) {
    for (; *words; words++)
        if (strcmp(*words, optarg) == 0) {
            *out = *words;
            return STATUS_OK;
        }
    return bad_value(option, optarg,
                     strcmp(option, "color") == 0 ? "auto, always or never" : "text or json");
}

static int accept_watch(struct scan_options *options) {
    options->watch_ms = WATCH_MS;
    int status = optarg ? accept_time("watch", &options->watch_ms) : STATUS_OK;
    if (options->watch_ms < WATCH_MIN_MS)
        options->watch_ms = WATCH_MIN_MS;
    return status;
}

static int accept(struct scan_options *options, int c, char **argv) {
    static const char *const formats[] = {"text", "json", NULL};
    static const char *const colors[] = {"auto", "always", "never", NULL};
    uint64_t number = 0;
    const char *word = NULL;
    int status = STATUS_OK;
    switch (c) {
    case OPTION_PID:
        status = accept_number("pid", INT32_MAX, "a process id", &number);
        options->filter.pid = (pid_t)number;
        return status;
    case OPTION_PORT:
        status = accept_number("port", UINT16_MAX, "a port number", &number);
        options->filter.port = (uint16_t)number;
        return status;
    case OPTION_PEERS:
        status = option_number(optarg, 0, UINT32_MAX, &number)
                     ? STATUS_OK
                     : bad_value("peers", optarg, "a number");
        options->look.peers_max = (uint32_t)number;
        return status;
    case OPTION_OLDER:
        return accept_time("older", &options->filter.older_ms);
    case OPTION_FAIL_OLDER:
        return accept_time("fail-older", &options->fail_older_ms);
    case OPTION_WATCH:
        return accept_watch(options);
    case OPTION_JSON:
        options->json = true;
        return STATUS_OK;
    case OPTION_FORMAT:
        status = accept_word("format", formats, &word);
        options->json = word == formats[1];
        return status;
    case OPTION_COLOR:
        return accept_word("color", colors, &options->color);
    default:
        return option_error(name, c, argv, long_options);
    }
}

static void look_at_terminal(struct scan_options *options) {
    const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
    bool is_terminal = isatty(STDOUT_FILENO);
    struct winsize size;
    options->look.color =
        is_terminal && !(no_color && no_color[0]) && terminal && strcmp(terminal, "dumb") != 0;
    if (strcmp(options->color, "auto") != 0)
        options->look.color = strcmp(options->color, "always") == 0;
    options->look.width = 0;
    if (is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        options->look.width = size.ws_col;
}

// --- looking ------------------------------------------------------------------------------------

static int say_failure(const struct scan_options *options, int error) {
    pid_t pid = options->filter.pid;
    if (pid && error == -ESRCH)
        error_say("no process %d", (int)pid);
    else if (pid && (error == -EACCES || error == -EPERM))
        error_say("process %d may not be looked at: it is another user's, or lives in another "
                  "network namespace; scan as root (sudo sockleak scan --pid %d)",
                  (int)pid, (int)pid);
    else
        error_say("the kernel does not list its sockets (netlink sock_diag): %s", strerror(-error));
    return STATUS_FAILED;
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
        scan_write_text(&result, &options->look, stdout);
    bool fails = result.close_wait && result.oldest_ms > options->fail_older_ms;
    scan_free(&result);
    return command_finish_output(fails ? STATUS_LEAK : STATUS_OK);
}

static int look(struct scan_options *options) {
    int status;
    do {
        look_at_terminal(options);
        status = look_once(options);
        struct timespec pause = {(time_t)(options->watch_ms / 1000),
                                 (long)(options->watch_ms % 1000) * 1000000};
        if (options->watch_ms && status == STATUS_OK)
            nanosleep(&pause, NULL);
    } while (options->watch_ms && status == STATUS_OK);
    return status;
}

static int scan_main(int argc, char **argv) {
    struct scan_options options = {
        .look.peers_max = PEERS_SHOWN, .color = "auto", .fail_older_ms = UINT64_MAX};
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
    .about =
        "Lists the processes that hold sockets in CLOSE_WAIT, whatever they were started with: "
        "how\n"
        "many, how long ago the oldest one's peer closed, on how many the program has read end of\n"
        "stream or has not, how many hold data that it has not read, and the peers. Then "
        "TIME_WAIT\n"
        "by destination, with the share of the local ports for outgoing connections that it "
        "takes.\n"
        "What hurts most comes first. Nothing needs to be preloaded, no process is touched.\n\n"
        "Exit status: 0; 23 with --fail-older where something is older; 1 where it could not "
        "look.\n",
    .options =
        "      --pid=PID           this process only\n"
        "      --port=PORT         this port only, ours or the peer's\n"
        "      --older=TIME        in CLOSE_WAIT for at least so long: 500ms, 30s, 5m, 2h, 1d\n"
        "      --fail-older=TIME   exit status 23 when a socket is in CLOSE_WAIT for longer\n"
        "      --watch[=SECONDS]   again and again, every 2 seconds; with --fail-older until then\n"
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
