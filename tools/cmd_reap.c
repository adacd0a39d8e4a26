// sockleak reap PID: lets go of the sockets that a live process has left in CLOSE_WAIT.
#include "commands.h"
#include "errors.h"
#include "format.h"
#include "inspect.h"
#include "options.h"
#include "procfs.h"
#include "reap.h"
#include "report/names.h"
#include "terminal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum reap_option {
    OPTION_OLDER = 1000,
    OPTION_VERDICT,
    OPTION_SHARED,
    OPTION_DRY_RUN,
    OPTION_YES,
    OPTION_FORMAT
};
enum {
    CAP_NET_ADMIN_BIT = 12 // linux/capability.h
};

static const char name[] = "reap";

struct reap_options {
    struct reap reap;
    const char *older; // as written; NULL: not given
    bool dry_run, yes, json;
};

static const struct option long_options[] = {{"help", no_argument, NULL, 'h'},
                                             {"older", required_argument, NULL, OPTION_OLDER},
                                             {"verdict", required_argument, NULL, OPTION_VERDICT},
                                             {"shared", no_argument, NULL, OPTION_SHARED},
                                             {"dry-run", no_argument, NULL, OPTION_DRY_RUN},
                                             {"yes", no_argument, NULL, OPTION_YES},
                                             {"format", required_argument, NULL, OPTION_FORMAT},
                                             {NULL, 0, NULL, 0}};

// --- options ------------------------------------------------------------------------------------

static uint32_t all_leaks(void) {
    uint32_t mask = 0;
    for (int i = 0; i < VERDICT_COUNT; i++)
        mask |= verdict_is_leak((enum verdict)i) ? 1u << i : 0;
    return mask;
}

// "fin-unread,eof-ignored"; several options add up.
static int accept_verdicts(struct reap_options *options, const char *argument) {
    for (const char *at = argument;; at++) {
        char word[32];
        size_t len = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)len, at);
        enum verdict verdict = verdict_named(word);
        if (verdict == VERDICT_COUNT || verdict == VERDICT_NOT_JUDGED || len >= sizeof word)
            return error_usage(name,
                               "--verdict: '%.*s' is none of eof-ignored, fin-unread, "
                               "data-unread, reset-unclosed, shutdown-unclosed",
                               (int)len, at);
        if (!verdict_is_leak(verdict))
            return error_usage(name, "--verdict: a socket that is %s is no leak, and is left alone",
                               word);
        options->reap.verdicts |= 1u << verdict;
        at += len;
        if (!*at)
            return STATUS_OK;
    }
}

static int accept(struct reap_options *options, int c, char **argv) {
    static const char *const formats[] = {"text", "json", NULL};
    unsigned format = 0;
    int status;
    switch (c) {
    case OPTION_OLDER:
        options->older = optarg;
        return option_accept_time(name, "older", optarg, &options->reap.older_ms);
    case OPTION_VERDICT:
        return accept_verdicts(options, optarg);
    case OPTION_SHARED:
        options->reap.take_shared = true;
        return STATUS_OK;
    case OPTION_DRY_RUN:
        options->dry_run = true;
        return STATUS_OK;
    case OPTION_YES:
        options->yes = true;
        return STATUS_OK;
    case OPTION_FORMAT:
        status = option_accept_word(name, "format", optarg, formats, &format);
        options->json = format == 1;
        return status;
    default:
        return option_error(name, c, argv, long_options);
    }
}

// --- telling ------------------------------------------------------------------------------------

static const char *address(const struct ledger_address *wanted, char *memory, size_t bytes) {
    struct text_buffer text = text_buffer(memory, bytes);
    text_address(&text, wanted);
    return memory;
}

// "end of stream read in handle server.c:54", "accept4 in main server.c:12"; "" where not known.
static void write_place(const struct report_finding *finding, FILE *out) {
    const struct report_socket *sample = finding->sockets[0];
    const struct report_frame *frame = report_finding_frame(finding);
    if (!frame)
        return;
    if (sample->end_of_stream)
        fputs(", end of stream read", out);
    else if (!sample->error)
        fprintf(out, ", opened by %s", report_birth_call(sample));
    fprintf(out, " in %s", frame->function ? frame->function : "?");
    if (frame->file)
        fprintf(out, " %s:%u", format_path(frame->file), frame->line);
}

static void write_socket(const struct reap_socket *reaped, FILE *out) {
    const struct report_socket *socket = reaped->socket;
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    char local[80], peer[80], age[32];
    struct text_buffer text = text_buffer(age, sizeof age);
    text_age(&text, reaped->age_ms);
    fprintf(out, "%-9s  fd %d", reap_result_name(reaped->result), (int)socket->record.first_fd);
    for (uint32_t i = 1; i < socket->fd_count; i++)
        fprintf(out, ",%d", (int)socket->fds[i]);
    fprintf(out, "  %s - %s  %s for %s%s, %s", address(&socket->record.local, local, sizeof local),
            address(&socket->record.peer, peer, sizeof peer), name_of_state(snapshot->state),
            snapshot->flags & SNAPSHOT_AGE_IS_BOUND ? "at most " : "", age,
            verdict_name(reaped->finding->verdict));
    write_place(reaped->finding, out);
    fprintf(out, "%s%s\n", reaped->why[0] ? ": " : "", reaped->why);
}

static uint32_t count_of(const struct reap *reap, enum reap_result result) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < reap->count; i++)
        count += reap->sockets[i].result == result;
    return count;
}

static void write_sum(const struct reap_options *options, FILE *out) {
    const struct reap *reap = &options->reap;
    uint32_t done = count_of(reap, options->yes ? REAP_DESTROYED : REAP_LISTED);
    uint32_t all = reap->younger ? reap->count + reap->younger : done;
    fprintf(out, "%s%u ", reap->count ? "\n" : "", done);
    if (reap->younger)
        fprintf(out, "of %u ", all);
    fprintf(out, "socket%s of process %d %s", all == 1 ? "" : "s", (int)reap->pid,
            options->yes ? "destroyed" : "would be destroyed");
    if (reap->count > done)
        fprintf(out, ", %u not", reap->count - done);
    if (reap->younger)
        fprintf(out, " (%u younger than --older=%s)", reap->younger, options->older);
    fputs(!options->yes && done ? "; nothing was done: --yes does it\n" : "\n", out);
}

static void write_text(const struct reap_options *options, FILE *out) {
    const struct reap *reap = &options->reap;
    for (uint32_t i = 0; i < reap->count; i++)
        write_socket(&reap->sockets[i], out);
    write_sum(options, out);
}

static json_t *json_of(const struct reap_socket *reaped) {
    const struct ledger_record *record = &reaped->socket->record;
    char text[80];
    json_t *object = json_object(), *fds = json_array();
    for (uint32_t i = 0; i < reaped->socket->fd_count; i++)
        format_json_append(fds, format_json_number(reaped->socket->fds[i]));
    format_json_set(object, "fds", fds);
    format_json_set(object, "inode", format_json_number((int64_t)record->inode));
    snprintf(text, sizeof text, "%08x%08x", reaped->kernel.id.idiag_cookie[1],
             reaped->kernel.id.idiag_cookie[0]);
    format_json_set(object, "cookie", format_json_text(reaped->kernel.inode ? text : NULL));
    format_json_set(object, "local", format_json_text(address(&record->local, text, sizeof text)));
    format_json_set(object, "peer", format_json_text(address(&record->peer, text, sizeof text)));
    format_json_set(object, "state", format_json_text(name_of_state(record->snapshot.state)));
    format_json_set(object, "age_ms", format_json_number((int64_t)reaped->age_ms));
    format_json_set(object, "verdict", format_json_text(verdict_name(reaped->finding->verdict)));
    format_json_set(object, "fingerprint", format_json_text(reaped->finding->fingerprint));
    format_json_set(object, "result", format_json_text(reap_result_name(reaped->result)));
    format_json_set(object, "why", format_json_text(reaped->why[0] ? reaped->why : NULL));
    return object;
}

static void write_json(const struct reap_options *options, FILE *out) {
    const struct reap *reap = &options->reap;
    json_t *document = json_object(), *sockets = json_array();
    format_json_set(document, "schema", format_json_text("sockleak-reap/1"));
    format_json_set(document, "pid", format_json_number(reap->pid));
    format_json_set(document, "dry_run", json_boolean(!options->yes));
    format_json_set(document, "older_ms", format_json_number((int64_t)reap->older_ms));
    for (uint32_t i = 0; i < reap->count; i++)
        format_json_append(sockets, json_of(&reap->sockets[i]));
    format_json_set(document, "sockets", sockets);
    format_json_set(document, "younger", format_json_number(reap->younger));
    json_dumpf(document, out, JSON_INDENT(2));
    fputc('\n', out);
    json_decref(document);
}

static void tell(const struct reap_options *options) {
    struct terminal_page page;
    if (options->json) {
        write_json(options, stdout);
        return;
    }
    write_text(options, terminal_page_begin(&page, stdout));
    terminal_page_end(&page);
}

// The kernel asks for it in the user namespace that the network belongs to: having it here is
// necessary, and mostly enough.
static bool has_capability(void) {
    char text[4096];
    unsigned long long mask;
    const char *at =
        procfs_read("/proc/self/status", text, sizeof text) > 0 ? strstr(text, "\nCapEff:") : NULL;
    return !at || sscanf(at, "\nCapEff: %llx", &mask) != 1 || mask >> CAP_NET_ADMIN_BIT & 1;
}

static void say_not_permitted(const struct reap *reap) {
    error_say("this user may not destroy sockets: it needs CAP_NET_ADMIN in the network namespace "
              "of process %d: do it as root (sudo sockleak reap ... --yes %d)",
              (int)reap->pid, (int)reap->pid);
}

static int say_failure(const struct reap *reap, int error) {
    if (error == -EPERM)
        say_not_permitted(reap);
    else if (error == -EOPNOTSUPP)
        error_say("this kernel cannot destroy sockets: it was built without "
                  "CONFIG_INET_DIAG_DESTROY, or is older than 4.5");
    else
        error_say("process %d: its sockets cannot be destroyed: %s", (int)reap->pid,
                  strerror(-error));
    return STATUS_FAILED;
}

// --- doing --------------------------------------------------------------------------------------

static int act(struct reap_options *options) {
    struct reap *reap = &options->reap;
    int error = options->yes ? reap_destroy(reap) : 0;
    tell(options);
    int status = command_finish_output(STATUS_OK);
    if (error < 0)
        return say_failure(reap, error);
    if (!options->yes && reap->listed && !has_capability())
        say_not_permitted(reap);
    return status == STATUS_OK && count_of(reap, REAP_FAILED) ? STATUS_FAILED : status;
}

static int list_and_act(struct reap_options *options, struct report *report) {
    struct reap *reap = &options->reap;
    struct report_options judge = REPORT_OPTIONS_DEFAULT;
    int status = inspect_process(reap->pid, name, report);
    if (status != STATUS_OK)
        return status;
    int error = report_finish(report, &judge);
    if (error == 0)
        error = reap_list(reap, report);
    return error < 0 ? say_failure(reap, error) : act(options);
}

static int reap_process(struct reap_options *options) {
    int status = inspect_check(options->reap.pid, name);
    if (status != STATUS_OK)
        return status;
    if (!options->reap.verdicts)
        options->reap.verdicts = all_leaks();
    struct report *report = report_new();
    // Where this fails for want of a right, inspect_process() does too, and knows what to say.
    int error = reap_open(&options->reap);
    status = error == 0 || error == -EPERM || error == -EACCES || error == -ESRCH
                 ? list_and_act(options, report)
                 : say_failure(&options->reap, error);
    reap_free(&options->reap);
    report_free(report);
    return status;
}

static int reap_main(int argc, char **argv) {
    struct reap_options options = {0};
    int c, status = STATUS_OK;
    opterr = 0;
    while (status == STATUS_OK && (c = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
        if (c == 'h')
            return command_help(&command_reap);
        status = accept(&options, c, argv);
    }
    if (status == STATUS_OK)
        status = option_pid(name, argc, argv, &options.reap.pid);
    if (status != STATUS_OK)
        return status;
    if (!options.older)
        return error_usage(name,
                           "how old must a socket be? Give --older=TIME, such as --older=60s");
    if (options.yes && options.dry_run)
        return error_usage(name, "--yes and --dry-run contradict each other");
    return reap_process(&options);
}

const struct command command_reap = {
    .name = name,
    .usage = "--older=TIME [options] PID",
    .summary = "let go of sockets that a live process left in CLOSE_WAIT",
    .about = "First aid, until the program is mended: ends the connections of sockets that\n"
             "process PID has leaked, so that the peer and the port are free. Without --yes\n"
             "it only lists them. The program keeps its descriptors, and must still close\n"
             "them: poll and epoll show an error, a write fails with ECONNABORTED, and a\n"
             "read returns 0 as it did since the peer closed. Nothing restarts, nothing else\n"
             "is touched: each socket is named by the kernel's cookie and looked at again\n"
             "right before, and one that was closed or used meanwhile is left alone, as are\n"
             "listening and healthy sockets, and those that another process has open, too.\n"
             "What is in its state for less than a second is no leak yet.\n"
             "\n"
             "Needs the right to trace the process, and with --yes CAP_NET_ADMIN (root), and\n"
             "a kernel with CONFIG_INET_DIAG_DESTROY.\n"
             "\n"
             "Exit status: 0 when all that was to go is gone, also when there was none; 1\n"
             "when something could not be destroyed or looked at; 2 for a mistake in the\n"
             "options.\n",
    .options = "      --older=TIME        in its state for at least so long: 500ms, 30s, 5m, 2h\n"
               "      --verdict=NAME,...  only these: eof-ignored, fin-unread, data-unread,\n"
               "                          reset-unclosed, shutdown-unclosed\n"
               "      --shared            also sockets that another process has open, too\n"
               "      --dry-run           list them only (default)\n"
               "      --yes               destroy them\n"
               "      --format=text|json\n"
               "  -h, --help              this help\n",
    .examples = "  sockleak reap --older=60s 4711\n"
                "  sudo sockleak reap --older=10m --verdict=eof-ignored --yes 4711\n",
    .main = reap_main,
};
