// A live process for those commands that are given one: `dump` and `reap`.
#ifndef SOCKLEAK_TOOLS_INSPECT_H
#define SOCKLEAK_TOOLS_INSPECT_H

#include "model.h"
#include <sys/types.h>

// Whether there is such a process to look at. Returns an exit status: STATUS_OK, or STATUS_FAILED
// having said why not. `command` is for the message: "sudo sockleak dump 12".
int inspect_check(pid_t pid, const char *command);

// Adds the process to a report: its ledger where it has one, and what the kernel knows of its
// sockets now. It is neither stopped nor signalled. Returns as above; also for one that has ended
// meanwhile.
int inspect_process(pid_t pid, const char *command, struct report *report);

#endif
