#include "run_environment.h"
#include "base/options.h"
#include "errors.h"
#include "suggest.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SOCKLEAK_LIBDIR
#define SOCKLEAK_LIBDIR "/usr/local/lib"
#endif

static const char library_name[] = "libsockleak.so";

static char *format(const char *format_string, ...) __attribute__((format(printf, 1, 2)));

static char *format(const char *format_string, ...) {
    char *text;
    va_list arguments;
    va_start(arguments, format_string);
    int len = vasprintf(&text, format_string, arguments);
    va_end(arguments);
    if (len < 0) {
        error_say("out of memory");
        exit(STATUS_FAILED);
    }
    return text;
}

// --- the library --------------------------------------------------------------------------------

int run_library_find(char *path, size_t path_bytes) {
    static const char *const beside[] = {"", "../lib/", "../lib64/", "../lib/sockleak/"};
    char own[4096], candidate[4096 + 64];
    ssize_t len = readlink("/proc/self/exe", own, sizeof own - 1);
    own[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(own, '/');
    for (size_t i = 0; slash && i <= sizeof beside / sizeof *beside; i++) {
        slash[1] = '\0';
        if (i < sizeof beside / sizeof *beside)
            snprintf(candidate, sizeof candidate, "%s%s%s", own, beside[i], library_name);
        else
            snprintf(candidate, sizeof candidate, SOCKLEAK_LIBDIR "/%s", library_name);
        char *real = access(candidate, R_OK) == 0 ? realpath(candidate, NULL) : NULL;
        if (!real)
            continue;
        snprintf(path, path_bytes, "%s", real);
        free(real);
        return 0;
    }
    error_say("%s is neither beside this command (%s) nor in " SOCKLEAK_LIBDIR
              ": install both from one build",
              library_name, own);
    return -ENOENT;
}

// The dynamic linker splits LD_PRELOAD at blanks and colons, and knows no quotes.
static char *make_loadable(const char *path, const struct run_directory *directory) {
    if (!path[strcspn(path, ": \t\n")])
        return must_copy(path);
    char *link = format("%s/%s", directory->path, library_name);
    if (!link[strcspn(link, ": \t\n")] && symlink(path, link) == 0)
        return link;
    error_say("%s: LD_PRELOAD cannot name a path with a blank or a colon, and no link to it can be "
              "made as %s",
              path, link);
    free(link);
    return NULL;
}

// --- options ------------------------------------------------------------------------------------

static const char *nearest_option(const char *name) {
    const char *names[64] = {NULL};
    for (int i = 0; i < 63 && options_name(i); i++)
        names[i] = options_name(i);
    return suggest(name, names);
}

static bool is_option(const char *name) {
    for (int i = 0; options_name(i); i++)
        if (strcmp(options_name(i), name) == 0)
            return true;
    return false;
}

// The value as the library will have it, without quotes around it.
static const char *value_problem(const char *name, const char *value) {
    static char problem[160];
    char bare[2 * OPTION_TEXT_BYTES];
    size_t len = strlen(value);
    bool is_quoted = len > 1 && strchr("'\"", value[0]) && value[len - 1] == value[0];
    snprintf(bare, sizeof bare, "%.*s", (int)(is_quoted ? len - 2 : len), value + is_quoted);
    struct text_buffer text = text_buffer(problem, sizeof problem);
    return options_take(name, bare, &text) ? NULL : problem + strspn(problem, " ");
}

const char *run_option_problem(const char *option, const char **near) {
    char name[64];
    size_t len = strcspn(option, "=");
    *near = NULL;
    if (option[len] != '=')
        return "is not NAME=VALUE";
    snprintf(name, sizeof name, "%.*s", (int)len, option);
    if (strcmp(name, "ledger_dir") == 0)
        return "is set by this command: use --ledger-dir";
    if (!is_option(name)) {
        *near = nearest_option(name);
        return "names no option of the library (SOCKLEAK_OPTIONS=help=1 lists them)";
    }
    if (strpbrk(option, "'") && strpbrk(option, "\""))
        return "has both kinds of quotes";
    return value_problem(name, option + len + 1);
}

// A value with a colon in it is quoted, unless it is already.
static char *with_option(char *entries, const char *name, size_t name_len, const char *value) {
    const char *quote = "";
    if (strchr(value, ':') && value[0] != '\'' && value[0] != '"')
        quote = strchr(value, '\'') ? "\"" : "'";
    char *joined = format("%s%s%.*s=%s%s%s", entries, entries[0] ? ":" : "", (int)name_len, name,
                          quote, value, quote);
    free(entries);
    return joined;
}

static char *library_options(const struct run_environment *wanted) {
    const char *users = getenv("SOCKLEAK_OPTIONS");
    char *entries = must_copy(users ? users : "");
    for (size_t i = 0; i < wanted->option_count; i++) {
        const char *option = wanted->options[i];
        size_t len = strcspn(option, "=");
        entries = with_option(entries, option, len, option + len + 1);
    }
    return with_option(entries, "ledger_dir", strlen("ledger_dir"), wanted->directory->path);
}

// --- the environment ----------------------------------------------------------------------------

static bool has_name(const char *variable, const char *name) {
    size_t len = strlen(name);
    return strncmp(variable, name, len) == 0 && variable[len] == '=';
}

static char *preload_variable(const char *library, const struct visibility *command) {
    const char *users = getenv("LD_PRELOAD"), *sanitizer = command->facts.sanitizer;
    bool has_users = users && users[0];
    return format("LD_PRELOAD=%s%s%s%s%s", sanitizer, sanitizer[0] ? ":" : "", library,
                  has_users ? ":" : "", has_users ? users : "");
}

// The address sanitizer ends a program at its start where any other library comes before its own
// runtime, and somewhere in the tree may be one. The order does no harm: our functions find its
// ones behind them.
static char *sanitizer_variable(void) {
    const char *users = getenv("ASAN_OPTIONS");
    if (users && strstr(users, "verify_asan_link_order"))
        return NULL;
    return format("ASAN_OPTIONS=%s%sverify_asan_link_order=0", users ? users : "",
                  users && users[0] ? ":" : "");
}

char **run_environment_make(const struct run_environment *wanted) {
    char *library = make_loadable(wanted->library, wanted->directory);
    if (!library)
        return NULL;
    char *entries = library_options(wanted);
    char *made[] = {wanted->command->must_not_preload ? NULL
                                                      : preload_variable(library, wanted->command),
                    format("SOCKLEAK_OPTIONS=%s", entries), sanitizer_variable()};
    static const char *const names[] = {"LD_PRELOAD", "SOCKLEAK_OPTIONS", "ASAN_OPTIONS"};
    free(entries);
    free(library);
    size_t count = 0, kept = 0;
    while (environ[count])
        count++;
    char **environment = must_allocate(count + 4, sizeof *environment);
    for (size_t i = 0; i < count; i++) {
        bool is_replaced = false;
        for (size_t j = 0; j < 3; j++)
            is_replaced |= made[j] && has_name(environ[i], names[j]);
        if (!is_replaced)
            environment[kept++] = must_copy(environ[i]);
    }
    for (size_t j = 0; j < 3; j++)
        if (made[j])
            environment[kept++] = made[j];
    return environment;
}

void run_environment_free(char **environment) {
    for (size_t i = 0; environment && environment[i]; i++)
        free(environment[i]);
    free(environment);
}
