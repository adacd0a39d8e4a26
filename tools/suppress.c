#include "suppress.h"
#include "base_name.h"
#include "errors.h"
#include "utf8.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool suppress_glob(const char *pattern, const char *text) {
    const char *star = NULL, *from = NULL; // the last `*`, and where what it took ends
    while (*text) {
        if (*pattern == '*') {
            star = pattern++;
            from = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star + 1;
            text = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

// --- files --------------------------------------------------------------------------------------

static const struct {
    const char *prefix;
    int kind;
} kinds[] = {{"leak:", SUPPRESS_LEAK}, {"peer:", SUPPRESS_PEER}, {"verdict:", SUPPRESS_VERDICT}};

static bool read_rule(struct suppress_rule *out, const char *text) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t len = strlen(kinds[i].prefix);
        if (strncmp(text, kinds[i].prefix, len) != 0)
            continue;
        out->kind = (unsigned)kinds[i].kind;
        out->pattern = text + len;
        return true;
    }
    return false;
}

static int add_rule(struct report *report, const char *text, const char *path, unsigned line) {
    struct suppress_rule rule = {
        .text = arena_name(&report->arena, text), .file = path, .line = line};
    if (!read_rule(&rule, rule.text)) {
        error_say("%s:%u: '%s' is no suppression: write leak:GLOB, peer:GLOB or verdict:NAME", path,
                  line, text);
        return -EINVAL;
    }
    if (!rule.pattern[0]) {
        error_say("%s:%u: '%s' matches nothing: a pattern must follow the colon", path, line, text);
        return -EINVAL;
    }
    if (rule.kind == SUPPRESS_VERDICT && verdict_named(rule.pattern) == VERDICT_COUNT) {
        error_say("%s:%u: no verdict is named '%s': eof-ignored, fin-unread, data-unread, "
                  "reset-unclosed and shutdown-unclosed are",
                  path, line, rule.pattern);
        return -EINVAL;
    }
    struct suppressions *all = report->suppressions;
    if (all->count == all->room) {
        all->room = all->room ? 2 * all->room : 16;
        struct suppress_rule *grown = arena_take(&report->arena, all->room, sizeof *grown);
        if (all->count)
            memcpy(grown, all->rules, all->count * sizeof *grown);
        all->rules = grown;
    }
    all->rules[all->count++] = rule;
    return 0;
}

static char *trim(char *line) {
    while (isspace((unsigned char)*line))
        line++;
    size_t len = strlen(line);
    while (len && isspace((unsigned char)line[len - 1]))
        line[--len] = '\0';
    return line;
}

int suppress_load(struct report *report, const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) {
        int error = -errno;
        error_say("%s: cannot read the suppressions: %s", path, strerror(-error));
        return error;
    }
    if (!report->suppressions)
        report->suppressions = arena_take(&report->arena, 1, sizeof *report->suppressions);
    path = arena_name(&report->arena, path);
    char *line = NULL;
    size_t room = 0;
    int result = 0;
    errno = 0;
    for (unsigned number = 1; getline(&line, &room, file) >= 0; number++) {
        char *text = trim(line);
        if (*text && *text != '#' && add_rule(report, text, path, number) < 0)
            result = -EINVAL;
    }
    if (ferror(file)) {
        result = -EIO;
        error_say("%s: cannot read the suppressions: %s", path, strerror(errno));
    }
    free(line);
    fclose(file);
    return result;
}

// --- matching -----------------------------------------------------------------------------------

static bool matches_path(const char *pattern, const char *path) {
    if (!path)
        return false;
    return suppress_glob(pattern, path) || suppress_glob(pattern, base_name(path));
}

static bool matches_function(const char *pattern, const char *function) {
    if (!function)
        return false;
    if (suppress_glob(pattern, function))
        return true;
    char *name = must_copy(function);
    name[strcspn(name, "(")] = '\0';
    bool matches = name[0] && suppress_glob(pattern, name);
    free(name);
    return matches;
}

static bool matches_stack(const char *pattern, const struct report_stack *stack) {
    for (uint32_t i = 0; stack && i < stack->frame_count; i++)
        if (matches_function(pattern, stack->frames[i].function) ||
            matches_path(pattern, stack->frames[i].file) ||
            matches_path(pattern, stack->frames[i].module))
            return true;
    return false;
}

static bool matches_peer(const char *pattern, const struct ledger_address *peer) {
    char memory[80];
    if (peer->family == ADDRESS_NONE)
        return false;
    struct text_buffer text = text_buffer(memory, sizeof memory);
    text_address(&text, peer);
    if (suppress_glob(pattern, memory))
        return true;
    *strrchr(memory, ':') = '\0'; // the port's
    if (suppress_glob(pattern, memory))
        return true;
    size_t len = strlen(memory);
    if (memory[0] != '[')
        return false;
    memory[len - 1] = '\0';
    return suppress_glob(pattern, memory + 1); // ::1
}

static bool matches_finding(const struct suppress_rule *rule,
                            const struct report_finding *finding) {
    const struct report_socket *sample = finding->sockets[0];
    switch (rule->kind) {
    case SUPPRESS_LEAK:
        return matches_stack(rule->pattern, sample->birth) ||
               matches_stack(rule->pattern, sample->end_of_stream) ||
               matches_stack(rule->pattern, sample->error);
    case SUPPRESS_VERDICT:
        return verdict_named(rule->pattern) == finding->verdict;
    case SUPPRESS_PEER:
        break; // of single sockets
    }
    return false;
}

void suppress_sockets(struct report *report) {
    struct suppressions *all = report->suppressions;
    for (uint32_t r = 0; all && r < all->count; r++)
        for (uint32_t i = 0; all->rules[r].kind == SUPPRESS_PEER && i < report->process_count;
             i++) {
            struct report_process *process = report->processes[i];
            for (uint32_t k = 0; k < process->socket_count; k++)
                if (!process->sockets[k].suppressed_by &&
                    matches_peer(all->rules[r].pattern, &process->sockets[k].record.peer))
                    process->sockets[k].suppressed_by = all->rules[r].text;
        }
}

static void suppress_finding(struct suppressions *all, struct report_finding *finding) {
    for (uint32_t r = 0; r < all->count; r++) {
        struct suppress_rule *rule = &all->rules[r];
        // Peer rules matched before there were findings; they are counted here.
        bool matches = finding->suppressed_by ? finding->suppressed_by == rule->text
                                              : matches_finding(rule, finding);
        if (!matches)
            continue;
        finding->suppressed_by = rule->text;
        rule->sockets += finding->socket_count;
        return;
    }
}

void suppress_findings(struct report *report) {
    for (uint32_t i = 0; report->suppressions && i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->finding_count; k++)
            if (report->processes[i]->findings[k].is_leak)
                suppress_finding(report->suppressions, &report->processes[i]->findings[k]);
}

// --- suggestions --------------------------------------------------------------------------------

// Text that a rule can hold: `*` and `?` match themselves, a newline would end it, and blanks at
// its end are not read. It is shown to people, too: `?` for each byte of what is no plain
// character.
static void write_pattern(FILE *out, const char *text) {
    fputs("leak:", out);
    for (size_t len; *text; text += len) {
        len = utf8_sequence(text);
        bool is_plain = len && !utf8_is_control(text) && !(*text == ' ' && text[1] == '\0');
        len = len ? len : 1;
        for (size_t i = 0; i < len; i++)
            fputc(is_plain ? text[i] : '?', out);
    }
}

void suppress_suggest(const struct report *report, FILE *out) {
    for (uint32_t i = 0; i < report->class_count; i++) {
        const struct report_finding *sample = report->classes[i].findings[0];
        if (!sample->is_leak || sample->suppressed_by)
            continue;
        const struct report_frame *frame = report_finding_frame(sample);
        fprintf(out, "# %llu of %s: %s\n", (unsigned long long)report->classes[i].socket_count,
                verdict_name(sample->verdict), verdict_explanation(sample->verdict));
        if (frame && frame->function && frame->function[0]) {
            write_pattern(out, frame->function);
        } else if (frame && frame->module && frame->module[0]) {
            write_pattern(out, frame->module);
        } else {
            fprintf(out, "verdict:%s", verdict_name(sample->verdict));
        }
        fputc('\n', out);
    }
}
