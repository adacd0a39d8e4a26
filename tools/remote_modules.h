// The files that a live process has mapped, for naming its addresses.
#ifndef SOCKLEAK_TOOLS_REMOTE_MODULES_H
#define SOCKLEAK_TOOLS_REMOTE_MODULES_H

#include "model.h"
#include <sys/types.h>

struct remote_mapping {
    uint64_t start, end, offset;
    const char *path; // "" for none
};

struct remote_modules {
    pid_t pid;
    struct report *report;
    struct remote_mapping *list; // by address
    uint32_t count;
};

// Reads /proc/PID/maps. 0 or -errno. The report keeps the paths.
int remote_modules_read(struct remote_modules *out, struct report *report, pid_t pid);
void remote_modules_free(struct remote_modules *modules);

const struct remote_mapping *remote_modules_find(const struct remote_modules *modules,
                                                 uint64_t address);

// An address as a ledger would have it: its module, by path and build id, and the offset in it.
struct report_address remote_modules_address(const struct remote_modules *modules,
                                             uint64_t address);

#endif
