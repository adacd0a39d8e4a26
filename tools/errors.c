#include "errors.h"
#include "terminal.h"
#include "utf8.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A file name must not carry a terminal escape. Text in UTF-8 stays; a byte that is none does not,
// since 0x9b alone begins an escape where the terminal is not set to UTF-8. In place: there may be
// no memory, and that is what is being said.
static void make_harmless(char *text) {
    for (size_t len; *text; text += len) {
        len = utf8_sequence(text);
        if (len == 0 || utf8_is_control(text)) {
            len = len ? len : 1;
            memset(text, '?', len);
        }
    }
}

static void say(const char *front, const char *format, va_list arguments, const char *back) {
    char *text = NULL, *line = NULL;
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    if (text)
        make_harmless(text);
    if (asprintf(&line, "%s: %s%s", front, text ? text : "out of memory", back) < 0)
        line = NULL;
    fflush(stdout); // keep the order where both are one file
    if (line)
        terminal_write_line(stderr, terminal_width(stderr), line, strlen(line));
    else
        fprintf(stderr, "%s: out of memory\n", front);
    free(line);
    free(text);
}

void error_say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say("sockleak", format, arguments, "");
    va_end(arguments);
}

void error_warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say("sockleak: warning", format, arguments, "");
    va_end(arguments);
}

int error_usage(const char *command, const char *format, ...) {
    char front[64] = "sockleak", back[96] = " (see 'sockleak --help')";
    if (command) {
        snprintf(front, sizeof front, "sockleak %s", command);
        snprintf(back, sizeof back, " (see 'sockleak help %s')", command);
    }
    va_list arguments;
    va_start(arguments, format);
    say(front, format, arguments, back);
    va_end(arguments);
    return STATUS_USAGE;
}

static void *or_exit(void *memory) {
    if (memory)
        return memory;
    error_say("out of memory");
    exit(STATUS_FAILED);
}

void *must_allocate(size_t count, size_t bytes) {
    return or_exit(calloc(count ? count : 1, bytes ? bytes : 1));
}

void *must_reallocate(void *old, size_t count, size_t bytes) {
    return or_exit(reallocarray(old, count ? count : 1, bytes ? bytes : 1));
}

void *must_grow(void *list, size_t count, size_t bytes) {
    bool is_full = (count & (count - 1)) == 0;
    return is_full ? must_reallocate(list, 2 * count, bytes) : list;
}

char *must_copy(const char *string) {
    return or_exit(strdup(string));
}
