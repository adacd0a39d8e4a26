// How readers put things into a report: see model.h, which everybody else includes instead.
#ifndef SOCKLEAK_TOOLS_GATHER_H
#define SOCKLEAK_TOOLS_GATHER_H

#include "model.h"

// A new process at the end of the list, all zeros but exe and boot_id, which are "".
struct report_process *gather_process(struct report *report);

// The one object for a path and a build id (hex, "" for none).
struct report_module *gather_module(struct report *report, const char *path, const char *build_id);

// The one object for a stack; the arrays are copied. Frames' strings must be arena_name()s.
struct report_stack *gather_stack(struct report *report, const struct report_address *addresses,
                                  uint32_t count, bool is_cut);
struct report_stack *gather_shown_stack(struct report *report, const struct report_frame *frames,
                                        uint32_t count, bool is_cut);

// The counters of a stack, to be added to; made at the first call.
struct report_site *gather_site(struct report *report, struct report_stack *stack);

// A new destination at the end of the list, all zeros.
struct report_destination *gather_destination(struct report *report);

// Whether a process of this ledger is in the report already; if so, it is counted as repeated.
bool gather_is_repeated(struct report *report, const char *ledger);

// Splits /proc/PID/cmdline's bytes into process->cmdline.
void gather_cmdline(struct report *report, struct report_process *process, const char *bytes,
                    size_t len_bytes);

// Where the same process (pid, start time, boot) is in the report already; NULL where not. The
// newest, where it has executed other programs.
struct report_process *gather_find(const struct report *report, uint32_t pid,
                                   uint64_t start_time_ticks, const char *boot_id);

// This machine's boot id, "" where it cannot be read.
const char *gather_boot_id(struct report *report);

#endif
