// The ledger inside a live process, read through its memory: without stopping it, a signal, or a
// byte written. Needs the right to trace it (ptrace(2), PTRACE_MODE_ATTACH).
//
// The other process is foreign input: whatever is read may be wrong, or change meanwhile.
#ifndef SOCKLEAK_TOOLS_REMOTE_H
#define SOCKLEAK_TOOLS_REMOTE_H

#include "ledger/ledger_format.h"
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct remote_ledger {
    pid_t pid;
    uint32_t parent_pid;
    uint64_t address; // of the header, there
    uint64_t bytes;
};

enum remote_found {
    REMOTE_NO_LIBRARY, // not preloaded
    REMOTE_NO_LEDGER,  // preloaded, and has opened no socket yet
    REMOTE_LEDGER
};

// Looks for the library in the process's memory map, and for its ledger by the symbol
// sockleak_ledger_locator. An enum remote_found, or: -EPERM or -EACCES no permission, -ESRCH no
// such process, -EPROTO it has a library of that name that is not ours, or of another version.
int remote_ledger_find(pid_t pid, struct remote_ledger *out);

// Copies bytes of the ledger, as struct ledger_source wants it (context: the struct remote_ledger).
// The header's process ids come out as this pid namespace has them, whatever the process's own
// says. 0 or -errno.
int remote_ledger_read(void *ledger, uint64_t offset, void *out, size_t len_bytes);

#endif
