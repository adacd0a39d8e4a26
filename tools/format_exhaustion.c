// What calls returned because something was exhausted.
#include "format_sections.h"
#include "report/text.h"

// The errors as strerror(3) has them, and what they stand for: man pages of socket(2), accept(2),
// connect(2).
static const char *const kinds[EXHAUSTED_KINDS] = {
    [EXHAUSTED_PROCESS_FDS] =
        "too many open files (EMFILE: the limit of the process, RLIMIT_NOFILE)",
    [EXHAUSTED_SYSTEM_FDS] = "too many open files in the system (ENFILE: fs.file-max)",
    [EXHAUSTED_PORTS] = "no local port left (EADDRNOTAVAIL: net.ipv4.ip_local_port_range, and "
                        "TIME_WAIT)",
    [EXHAUSTED_MEMORY] = "no memory for a socket (ENOBUFS, ENOMEM)",
    [EXHAUSTED_MAX_OPEN] = "more open sockets than max_open allows",
    [EXHAUSTED_MAX_CLOSE_WAIT] = "more sockets in CLOSE_WAIT than max_close_wait allows",
    [EXHAUSTED_LEAK_AFTER] = "a socket in CLOSE_WAIT for longer than leak_after",
};

void format_exhaustion(const struct report *report, struct text_lines *lines, uint32_t pid) {
    for (int kind = EXHAUSTED_NOTHING + 1; kind < EXHAUSTED_KINDS; kind++) {
        uint64_t count = 0;
        for (uint32_t i = 0; i < report->process_count; i++)
            count += report->processes[i]->counters.exhausted[kind];
        if (count)
            text_lines_say(lines, pid, "sockleak: %s happened %llu time%s", kinds[kind],
                           (unsigned long long)count, count == 1 ? "" : "s");
    }
}
