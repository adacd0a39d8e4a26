// Suppression files: findings that are known and not to be reported.
//
//     # comment
//     leak:GLOB      any frame's function, source file or module
//     peer:GLOB      the other end's address, "10.0.0.1:80" or without the port
//     verdict:NAME   "fin-unread"
//
// A GLOB matches the whole word; `*` is any text, `?` any character, nothing else is special. Of a
// function it may leave out the parameters, of a path the directories.
#ifndef SOCKLEAK_TOOLS_SUPPRESS_H
#define SOCKLEAK_TOOLS_SUPPRESS_H

#include "model.h"

struct suppress_rule {
    enum {
        SUPPRESS_LEAK,
        SUPPRESS_PEER,
        SUPPRESS_VERDICT
    } kind;
    const char *text;    // as written, "leak:foo*"
    const char *pattern; // behind the colon
    const char *file;
    unsigned line;
    uint64_t sockets; // matched
};

struct suppressions {
    struct suppress_rule *rules;
    uint32_t count, room;
};

// Reads one file into report->suppressions. Each mistake is said with file and line; returns
// -EINVAL where there was one, or -errno.
int suppress_load(struct report *report, const char *path);

// Marks sockets (peer rules), before they are grouped.
void suppress_sockets(struct report *report);

// Marks findings (the other rules), and counts for all rules. Needs frames.
void suppress_findings(struct report *report);

// Writes rules that would silence what is left, with a comment each.
void suppress_suggest(const struct report *report, FILE *out);

// `*` and `?`, in time linear in practice and at worst the product of the lengths.
bool suppress_glob(const char *pattern, const char *text);

#endif
