// Memory for the length of one report: one mapping, handed out from the front, given back as a
// whole. The reserve is generous, but not usable (PROT_NONE) before it is needed: in a program that
// locks its memory (mlockall) every usable page is present. Signal-safe.
#ifndef SOCKLEAK_REPORT_SCRATCH_H
#define SOCKLEAK_REPORT_SCRATCH_H

#include <stddef.h>

struct scratch {
    char *base;
    size_t size_bytes, committed_bytes, used_bytes;
};

// Returns 0 or -errno.
int scratch_open(struct scratch *out);

// Zeroed memory, 16-byte aligned, or NULL where the reserve, or the machine's memory, is at an end.
void *scratch_take(struct scratch *scratch, size_t bytes);

void scratch_close(struct scratch *scratch);

#endif
