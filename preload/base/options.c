#include "base/options.h"
#include <signal.h>
#include <stddef.h>
#include <string.h>

struct choice {
    const char *name;
    uint64_t value;
};

static const struct choice family_choices[] = {
    {"inet", FAMILIES_INET}, {"unix", FAMILIES_UNIX}, {"all", FAMILIES_ALL}, {NULL, 0}};

static const struct choice show_choices[] = {{"leaks", SHOW_LEAKS}, {"all", SHOW_ALL}, {NULL, 0}};

// Signals that mean nothing else to us: not those of crashes and stops, not those that cannot be
// caught, and not the ones that end a process (their report is made anyway).
static const struct choice signal_choices[] = {
    {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"ALRM", SIGALRM}, {"URG", SIGURG}, {"WINCH", SIGWINCH},
    {"IO", SIGIO},     {"PWR", SIGPWR},   {"none", 0},       {NULL, 0}};

enum option_kind {
    KIND_NUMBER,
    KIND_CHOICE,
    KIND_TEXT
};

struct option {
    const char *name;
    enum option_kind kind;
    size_t offset; // in struct options
    uint64_t min, max, fallback;
    const char *unit;
    const struct choice *choices;
    const char *help;
};

#define NUMBER(name, min, max, fallback, unit, help)                                               \
    { #name, KIND_NUMBER, offsetof(struct options, name), min, max, fallback, unit, NULL, help }
#define CHOICE(name, fallback, choices, help)                                                      \
    { #name, KIND_CHOICE, offsetof(struct options, name), 0, 0, fallback, "", choices, help }
#define TEXT(name, unit, help)                                                                     \
    { #name, KIND_TEXT, offsetof(struct options, name), 0, 0, 0, unit, NULL, help }

static const struct option table[] = {
    NUMBER(exit_grace_ms, 0, 3600000, 100, " ms",
           "at the end of the process, leave out what changed state more recently"),
    NUMBER(
        exhaustion_interval, 0, 86400, 60, " s",
        "report at EMFILE, ENFILE, EADDRNOTAVAIL, ENOBUFS, ENOMEM and the thresholds this seldom"),
    NUMBER(exitcode, 0, 255, 0, "", "exit status of a process that leaked; 0 keeps its own"),
    CHOICE(families, FAMILIES_INET, family_choices, "which sockets are reported"),
    NUMBER(grace_ms, 0, 3600000, 1000, " ms",
           "in a report of a running process, leave out what changed state more recently"),
    NUMBER(help, 0, 1, 0, "", "print this list when the program starts"),
    NUMBER(leak_after, 0, 86400, 0, " s",
           "report when a socket has been in CLOSE_WAIT for so long; 0: do not"),
    TEXT(ledger_dir, "DIRECTORY", "keep the ledger in a file there, for the sockleak command"),
    TEXT(log_path, "FILE",
         "report there, not to stderr; %p pid, %n executable, %t seconds since 1970"),
    NUMBER(max_close_wait, 0, 1000000, 0, "",
           "report when so many sockets are in CLOSE_WAIT; 0: do not"),
    NUMBER(max_open, 0, 1000000, 0, "", "report when so many sockets are open; 0: do not"),
    NUMBER(max_sockets, 0, 1000000, 10, "", "sockets listed per finding, the others are counted"),
    CHOICE(show, SHOW_LEAKS, show_choices, "all lists open sockets that are no leaks, too"),
    CHOICE(signal, SIGUSR1, signal_choices, "report when this signal arrives"),
    NUMBER(stack_depth, 1, OPTION_STACK_DEPTH_MAX, 32, " frames", "frames kept of each stack"),
    NUMBER(verbosity, 0, 2, 0, "", "1: report a process without leaks, too"),
};

enum {
    OPTION_COUNT = sizeof table / sizeof *table
};

struct options options;

static uint64_t *number_of(const struct option *option) {
    return (uint64_t *)((char *)&options + option->offset);
}

static char *text_of(const struct option *option) {
    return (char *)&options + option->offset;
}

static const struct option *option_named(const char *name, size_t len) {
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
            return &table[i];
    return NULL;
}

static const char *choice_name(const struct option *option) {
    for (const struct choice *c = option->choices; c->name; c++)
        if (c->value == option->fallback)
            return c->name;
    return "";
}

static void describe_range(const struct option *option, struct text_buffer *out) {
    switch (option->kind) {
    case KIND_NUMBER:
        text_decimal(out, option->min);
        text_string(out, " to ");
        text_decimal(out, option->max);
        text_string(out, option->unit);
        break;
    case KIND_CHOICE:
        for (const struct choice *c = option->choices; c->name; c++) {
            text_string(out, c == option->choices ? "" : "|");
            text_string(out, c->name);
        }
        break;
    case KIND_TEXT:
        text_string(out, option->unit);
        break;
    }
}

static void describe_default(const struct option *option, struct text_buffer *out) {
    if (option->kind == KIND_NUMBER)
        text_decimal(out, option->fallback);
    else
        text_string(out, option->kind == KIND_CHOICE ? choice_name(option) : "none");
}

static bool is_quote(char c) {
    return c == '\'' || c == '"';
}

static void set_default(const struct option *option) {
    if (option->kind == KIND_TEXT)
        text_of(option)[0] = '\0';
    else
        *number_of(option) = option->fallback;
}

static bool set_choice(const struct option *option, const char *value, size_t len) {
    if (option->choices == signal_choices && len > 3 && memcmp(value, "SIG", 3) == 0) {
        value += 3;
        len -= 3;
    }
    for (const struct choice *c = option->choices; c->name; c++)
        if (strlen(c->name) == len && memcmp(c->name, value, len) == 0) {
            *number_of(option) = c->value;
            return true;
        }
    return false;
}

static bool set(const struct option *option, const char *value, size_t len) {
    uint64_t number;
    switch (option->kind) {
    case KIND_NUMBER:
        if (!text_parse(value, value + len, option->max, &number) || number < option->min)
            return false;
        *number_of(option) = number;
        return true;
    case KIND_CHOICE:
        return set_choice(option, value, len);
    case KIND_TEXT:
        if (len == 0 || len >= OPTION_TEXT_BYTES)
            return false;
        memcpy(text_of(option), value, len);
        text_of(option)[len] = '\0';
        return true;
    }
    return false;
}

static void text_foreign_part(struct text_buffer *out, const char *text, size_t len) {
    char part[64];
    size_t kept = len < sizeof part ? len : sizeof part - 1;
    memcpy(part, text, kept);
    part[kept] = '\0';
    text_foreign(out, part);
    if (kept < len)
        text_string(out, "...");
}

static void note_unknown(struct text_buffer *out, const char *name, size_t len) {
    text_string(out, "SOCKLEAK_OPTIONS: no option is named '");
    text_foreign_part(out, name, len);
    text_string(out, "': ignored (help=1 lists them)\n");
}

static void describe_mistake(const struct option *option, const char *value, size_t len,
                             struct text_buffer *out) {
    if (is_quote(*value)) {
        text_string(out, " is not in quotes as a whole");
    } else if (option->kind == KIND_TEXT && len == 0) {
        text_string(out, " is empty");
    } else if (option->kind == KIND_TEXT && len >= OPTION_TEXT_BYTES) {
        text_string(out, " is longer than ");
        text_decimal(out, OPTION_TEXT_BYTES - 1);
        text_string(out, " bytes");
    } else {
        text_string(out, " is not ");
        describe_range(option, out);
    }
}

static void note_bad_value(struct text_buffer *out, const struct option *option, const char *value,
                           size_t len) {
    text_string(out, "SOCKLEAK_OPTIONS: ");
    text_string(out, option->name);
    text_string(out, "='");
    text_foreign_part(out, value, len);
    text_string(out, "'");
    describe_mistake(option, value, len, out);
    text_string(out, ": using the default, ");
    describe_default(option, out);
    text_string(out, "\n");
}

// One entry, name=value. Returns where the next one begins.
static const char *parse_entry(const char *text, struct text_buffer *problems) {
    size_t name_len = strcspn(text, "=:");
    const char *value = text + name_len;
    size_t value_len = 0;
    const char *next = value;
    bool is_half_quoted = false;
    if (*value == '=') {
        value++;
        const char *close = is_quote(*value) ? strchr(value + 1, *value) : NULL;
        if (close && (close[1] == ':' || close[1] == '\0')) {
            value++;
            value_len = (size_t)(close - value);
            next = close + 1;
        } else {
            is_half_quoted = is_quote(*value); // or with text behind the quotes
            value_len = strcspn(value, ":");
            next = value + value_len;
        }
    }
    const struct option *option = option_named(text, name_len);
    if (!option) {
        note_unknown(problems, text, name_len);
    } else if (is_half_quoted || !set(option, value, value_len)) {
        set_default(option); // an entry before it may have set another value
        note_bad_value(problems, option, value, value_len);
    }
    return next;
}

// Where the problems do not fit, the last line says so: half of one would say something else.
static void end_with_a_whole_line(struct text_buffer *problems) {
    static const char more[] = "SOCKLEAK_OPTIONS: there are more mistakes in it\n";
    if (!problems->truncated)
        return;
    size_t len = problems->size_bytes - sizeof more;
    while (len && problems->text[len - 1] != '\n')
        len--;
    problems->len_bytes = len;
    text_string(problems, more);
}

void options_parse(const char *text) {
    memset(&options, 0, sizeof options);
    for (int i = 0; i < OPTION_COUNT; i++)
        set_default(&table[i]);
    struct text_buffer problems = text_buffer(options.problems, sizeof options.problems);
    while (text && *text) {
        if (*text == ':')
            text++;
        else
            text = parse_entry(text, &problems);
    }
    end_with_a_whole_line(&problems);
}

bool options_take(const char *name, const char *value, struct text_buffer *mistake) {
    const struct option *option = option_named(name, strlen(name));
    size_t len = strlen(value);
    if (option && !is_quote(*value) && set(option, value, len))
        return true;
    if (option)
        describe_mistake(option, value, len, mistake);
    return false;
}

const char *options_name(int index) {
    return index >= 0 && index < OPTION_COUNT ? table[index].name : NULL;
}

bool options_help(int index, struct text_buffer *out) {
    enum {
        RANGE_COLUMN = 16,
        DEFAULT_COLUMN = 54,
        HELP_COLUMN = 70
    };
    if (index < 0 || index >= OPTION_COUNT)
        return false;
    text_string(out, table[index].name);
    text_pad(out, RANGE_COLUMN);
    describe_range(&table[index], out);
    text_pad(out, DEFAULT_COLUMN);
    text_string(out, "default ");
    describe_default(&table[index], out);
    text_pad(out, HELP_COLUMN);
    text_string(out, table[index].help);
    return true;
}
