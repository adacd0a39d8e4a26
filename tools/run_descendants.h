// The processes that a command started, seen through /proc while it runs: which of them cannot be
// watched, and which outlive it.
//
// A look finds who is there at that moment. A program that comes and goes between two looks is
// known by the mark that its parent left (run_marks.h), where that could be watched; else it is
// missed, and one that lives long enough to keep a connection is not.
#ifndef SOCKLEAK_TOOLS_RUN_DESCENDANTS_H
#define SOCKLEAK_TOOLS_RUN_DESCENDANTS_H

#include "model.h"
#include <stdbool.h>
#include <sys/types.h>

struct descendants;

struct descendants *descendants_new(void);
void descendants_free(struct descendants *list);

// The command itself, where it was clear before its start that it cannot be watched.
void descendants_add_unwatched(struct descendants *list, pid_t pid, const char *exe,
                               const char *problem);

// One that said so before it ran (`exe` and `problem` from its mark; `pid` 0: not known). It counts
// once where it was seen running, too. `problem` is static.
void descendants_add_marked(struct descendants *list, pid_t pid, const char *exe,
                            const char *problem);

// Looks at all descendants of this process. Returns whether there was a program not seen before.
bool descendants_look(void *list);

// Where the names of new ledgers are read from (inotify(7) events, non-blocking); -1: nowhere.
void descendants_expect_ledgers(struct descendants *list, int fd);

// Looks just at those that own a ledger: who has begun one, and who of them is gone. What was told
// of no other process can be lost, so this is quick where the whole tree is large.
void descendants_look_at_owners(void *list);

// The command has ended just now.
void descendants_ended(struct descendants *list, pid_t pid);

// When a process was found to have ended, CLOCK_MONOTONIC; 0: it was not, or it was never seen. One
// that exec'd is the same process.
uint64_t descendants_gone_ns(const struct descendants *list, pid_t pid, uint64_t start_ticks);

// Tells the processes of a report when they were found to have ended: to the moment for the
// command, and for the others as of the first look that did not find them.
void descendants_report_ends(const struct descendants *list, struct report *report);

// Whether any is left. Zombies do not count.
bool descendants_any(void *list);

// Tells a report of those that could not be watched, also where that could not be found out.
void descendants_report_unwatched(const struct descendants *list, struct report *report);

// Calls `each` for those that run now.
void descendants_each(void (*each)(void *context, pid_t pid), void *context);

#endif
