#include "options.h"
#include "errors.h"
#include "suggest.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPTIONS_MAX = 64,
    WATCH_MS = 2000,
    WATCH_MIN_MS = 100
};

static const struct option *option_of(const struct option *options, int value) {
    for (; options->name; options++)
        if (options->val == value)
            return options;
    return NULL;
}

static const char *near_option(const char *word, const struct option *options) {
    const char *names[OPTIONS_MAX + 1] = {NULL};
    for (int i = 0; i < OPTIONS_MAX && options[i].name; i++)
        names[i] = options[i].name;
    return suggest(word, names);
}

static int unknown_long_option(const char *command, const char *word,
                               const struct option *options) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    size_t len = strlen(name);
    unsigned begun = 0;
    for (const struct option *o = options; o->name; o++)
        begun += strncmp(o->name, name, len) == 0;
    if (begun > 1)
        return error_usage(command, "option '--%s' is ambiguous", name);
    const char *near = near_option(name, options);
    if (near)
        return error_usage(command, "no option '--%s': did you mean '--%s'?", name, near);
    return error_usage(command, "no option '--%s'", name);
}

int option_error(const char *command, int result, char **argv, const struct option *options) {
    const char *word = argv[optind - 1];
    bool is_long = strncmp(word, "--", 2) == 0;
    if (result == ':') {
        const struct option *option = option_of(options, optopt);
        if (option && (is_long || optopt > 255))
            return error_usage(command, "option '--%s' needs a value", option->name);
        return error_usage(command, "option '-%c' needs a value", optopt);
    }
    if (optopt == 0 && is_long)
        return unknown_long_option(command, word + 2, options);
    const struct option *option = option_of(options, optopt);
    if (option && is_long)
        return error_usage(command, "option '--%s' takes no value", option->name);
    return error_usage(command, "no option '-%c'", isprint(optopt) ? optopt : '?');
}

bool option_number(const char *text, uint64_t min, uint64_t max, uint64_t *out) {
    if (!isdigit((unsigned char)*text) || strlen(text) > 19)
        return false;
    char *end;
    *out = strtoull(text, &end, 10);
    return *end == '\0' && *out >= min && *out <= max;
}

int option_pid(const char *command, int argc, char **argv, pid_t *out) {
    uint64_t pid = 0;
    if (optind == argc)
        return error_usage(command, "which process? Give its PID");
    if (optind + 1 < argc)
        return error_usage(command, "one process at a time: '%s' is too much", argv[optind + 1]);
    if (!option_number(argv[optind], 1, INT32_MAX, &pid))
        return error_usage(command, "'%s' is no process id", argv[optind]);
    *out = (pid_t)pid;
    return STATUS_OK;
}

int option_accept_number(const char *command, const char *option, const char *argument,
                         const char *what, uint64_t min, uint64_t max, uint64_t *out) {
    if (option_number(argument, min, max, out))
        return STATUS_OK;
    return error_usage(command, "--%s %s: is not %s", option, argument, what);
}

static bool parse_time(const char *text, uint64_t *out_ms) {
    static const struct {
        const char *unit;
        double ms;
    } units[] = {{"", 1e3},    {"ms", 1},   {"s", 1e3},  {"m", 6e4},
                 {"min", 6e4}, {"h", 36e5}, {"d", 864e5}};
    size_t digits = strspn(text, "0123456789.");
    if (!isdigit((unsigned char)*text) || digits > 15)
        return false;
    char *end;
    double number = strtod(text, &end);
    if (end != text + digits)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0) {
            *out_ms = (uint64_t)(number * units[i].ms + 0.5);
            return true;
        }
    return false;
}

// `sign` is what stands between an option and its value.
static int accept_time(const char *command, const char *option, char sign, const char *argument,
                       uint64_t *out_ms) {
    if (parse_time(argument, out_ms))
        return STATUS_OK;
    return error_usage(command, "--%s%c%s: is not a time such as 500ms, 30s, 5m, 2h or 1d", option,
                       sign, argument);
}

int option_accept_time(const char *command, const char *option, const char *argument,
                       uint64_t *out_ms) {
    return accept_time(command, option, ' ', argument, out_ms);
}

int option_accept_watch(const char *command, const char *argument, uint64_t *out_ms) {
    *out_ms = WATCH_MS;
    int status = argument ? accept_time(command, "watch", '=', argument, out_ms) : STATUS_OK;
    if (status == STATUS_OK && *out_ms == 0)
        return error_usage(command, "--watch=%s: is not a time that is longer than 0", argument);
    if (*out_ms < WATCH_MIN_MS)
        *out_ms = WATCH_MIN_MS;
    return status;
}

int option_accept_name(const char *command, const char *option, const char *argument,
                       const char *what, const char **out) {
    if (!argument[0])
        return error_usage(command, "--%s=: %s must follow", option, what);
    *out = argument;
    return STATUS_OK;
}

int option_accept_word(const char *command, const char *option, const char *argument,
                       const char *const *words, unsigned *out) {
    char list[128] = "";
    for (unsigned i = 0; words[i]; i++) {
        if (strcmp(words[i], argument) == 0) {
            *out = i;
            return STATUS_OK;
        }
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s%s",
                 i == 0         ? ""
                 : words[i + 1] ? ", "
                                : " or ",
                 words[i]);
    }
    return error_usage(command, "--%s %s: is not %s", option, argument, list);
}
