// Suppression files, and matching them against names that a hostile program chose.
//
// The input is the file, then, each behind a NUL: function, source file and module of a frame, and
// four bytes of the peer's address.
#include "arena.h"
#include "fuzz.h"
#include "gather.h"
#include "suppress.h"
#include <stdlib.h>
#include <string.h>

enum {
    REFERENCE_MAX = 1024 // bytes, of pattern and text: the reference below is slow
};

// --- globs --------------------------------------------------------------------------------------

// What suppress.h promises, in the plainest way: row after row, which fronts of the text the front
// of the pattern matches.
static bool plain_glob(const char *pattern, const char *text) {
    size_t len = strlen(text);
    bool *matches = calloc(len + 1, sizeof *matches);
    matches[0] = true;
    for (; *pattern; pattern++) {
        bool before = matches[0]; // of the row before, one to the left
        matches[0] = before && *pattern == '*';
        for (size_t i = 1; i <= len; i++) {
            bool above = matches[i];
            if (*pattern == '*')
                matches[i] = above || matches[i - 1];
            else
                matches[i] = before && (*pattern == '?' || *pattern == text[i - 1]);
            before = above;
        }
    }
    bool result = matches[len];
    free(matches);
    return result;
}

static void claim_glob(const char *pattern, const char *text) {
    bool matches = suppress_glob(pattern, text);
    if (strlen(pattern) <= REFERENCE_MAX && strlen(text) <= REFERENCE_MAX)
        fuzz_claim(matches == plain_glob(pattern, text), "a glob matches what it says");
}

// --- a report with one leak ---------------------------------------------------------------------

struct names {
    const char *function, *file, *module;
    uint8_t peer[4];
};

static struct report *leak_with(const struct names *names) {
    struct report *report = report_new();
    struct arena *arena = &report->arena;
    struct report_process *process = gather_process(report);
    struct report_frame frame = {
        .function = names->function[0] ? arena_name(arena, names->function) : NULL,
        .file = names->file[0] ? arena_name(arena, names->file) : NULL,
        .module = names->module[0] ? arena_name(arena, names->module) : NULL,
        .line = 7,
    };
    process->is_judged = true;
    process->sockets = calloc(1, sizeof *process->sockets);
    process->socket_count = 1;
    struct report_socket *socket = process->sockets;
    socket->process = process;
    socket->record.inode = 1;
    socket->record.snapshot.flags = SNAPSHOT_TAKEN;
    socket->record.snapshot.state = STATE_CLOSE_WAIT;
    socket->record.snapshot.verdict = VERDICT_FIN_UNREAD;
    socket->record.peer.family = ADDRESS_INET;
    memcpy(socket->record.peer.ip, names->peer, sizeof names->peer);
    socket->record.birth_call = CALL_ACCEPT;
    socket->birth = gather_shown_stack(report, &frame, 1, false);
    return report;
}

// Returns the number of leaks that the rules leave.
static uint64_t leaks_left(const struct names *names, const char *rules, bool *is_good) {
    struct report *report = leak_with(names);
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    options.suppression_files = &rules;
    options.suppression_count = 1;
    *is_good = report_finish(report, &options) == 0;
    fuzz_claim(report->summary.leaks + report->summary.suppressed == 1, "a leak is not lost");
    uint64_t leaks = report->summary.leaks;
    report_free(report);
    return leaks;
}

// What --suggest-suppressions prints silences what it was printed for.
static void claim_suggestions(const struct names *names) {
    struct report *report = leak_with(names);
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    char *text = NULL;
    size_t len = 0;
    report_finish(report, &options);
    FILE *out = open_memstream(&text, &len);
    suppress_suggest(report, out);
    fclose(out);
    report_free(report);
    for (size_t i = 0; i < len; i++)
        fuzz_claim((unsigned char)text[i] >= ' ' || text[i] == '\n', "suggestions are plain text");
    bool is_good;
    uint64_t leaks = leaks_left(names, fuzz_file(text, len), &is_good);
    fuzz_claim(is_good, "a suggestion is a rule");
    fuzz_claim(leaks == 0, "a suggestion silences its finding");
    free(text);
}

// ------------------------------------------------------------------------------------------------

// The next text behind a NUL, "" where there is none.
static const char *next_text(const char **at, const char *end) {
    const char *text = *at;
    if (text >= end)
        return "";
    *at = text + strlen(text) + 1;
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *copy = malloc(size + 1);
    memcpy(copy, data, size);
    copy[size] = '\0';
    const char *at = copy, *end = copy + size;
    const char *rules = next_text(&at, end);
    struct names names = {next_text(&at, end), next_text(&at, end), next_text(&at, end), {0}};
    memcpy(names.peer, at, at < end ? strnlen(at, sizeof names.peer) : 0);
    claim_glob(rules, names.function);
    claim_glob(names.function, rules);
    bool is_good;
    leaks_left(&names, fuzz_file(rules, strlen(rules)), &is_good);
    leaks_left(&names, fuzz_file(data, size), &is_good); // with NULs in it
    claim_suggestions(&names);
    free(copy);
    return 0;
}
