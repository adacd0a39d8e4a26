// What a report could not see. A reader who only sees the leaks would take the rest for clean.
#include "base_name.h"
#include "format.h"
#include "report/text.h"

enum {
    NAMED_MAX = 8,         // processes that one line names
    PATH_SHOWN_BYTES = 200 // of a longer one, the last part
};

// --- processes that could not be watched --------------------------------------------------------

static struct text_buffer name_of(const struct report_process *process, char *memory,
                                  size_t bytes) {
    struct text_buffer name = text_buffer(memory, bytes);
    bool is_long = strlen(process->exe) > PATH_SHOWN_BYTES;
    text_decimal(&name, process->pid);
    text_string(&name, process->exe[0] ? " " : "");
    text_string(&name, is_long ? base_name(process->exe) : process->exe);
    text_string(&name, " (");
    text_string(&name, process->unwatched);
    text_char(&name, ')');
    return name;
}

bool format_may_miss_children(const struct report_process *process) {
    return process->unwatched && !process->is_observed;
}

static const char *children_of(const struct report *report) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->process_count; i++)
        count += format_may_miss_children(report->processes[i]);
    return count == 0   ? ""
           : count == 1 ? "; what it started may be unwatched, too, and not listed"
                        : "; what they started may be unwatched, too, and not listed";
}

bool format_unwatched(const struct report *report, char *memory, size_t bytes) {
    struct text_buffer line = text_buffer(memory, bytes);
    const char *children = children_of(report);
    size_t tail = strlen(", ...") + strlen(children) + 1;
    uint64_t named = 0;
    text_decimal(&line, report->summary.unwatched);
    text_string(&line, report->summary.unwatched == 1 ? " process" : " processes");
    text_string(&line, " could not be watched: ");
    for (uint32_t i = 0; i < report->process_count && named < NAMED_MAX; i++) {
        char memory_of_name[FORMAT_LIMIT_BYTES];
        if (!report->processes[i]->unwatched)
            continue;
        struct text_buffer name =
            name_of(report->processes[i], memory_of_name, sizeof memory_of_name);
        if (line.len_bytes + 2 + name.len_bytes + tail > bytes)
            break;
        text_string(&line, named++ ? ", " : "");
        text_string(&line, name.text);
    }
    if (named < report->summary.unwatched)
        text_string(&line, named ? ", ..." : "...");
    text_string(&line, children);
    return report->summary.unwatched > 0;
}

// --- what was lost ------------------------------------------------------------------------------

// The words of preload/report/writing.c.
void format_each_loss(const struct report *report, void (*each)(void *context, const char *line),
                      void *context) {
    struct ledger_counters sum = {0};
    for (uint32_t i = 0; i < report->process_count; i++) {
        const struct ledger_counters *counters = &report->processes[i]->counters;
        sum.untracked_records += counters->untracked_records;
        sum.untracked_fds += counters->untracked_fds;
        sum.stacks_lost += counters->stacks_lost;
        sum.snapshots_lost += counters->snapshots_lost;
    }
    const struct {
        uint64_t count;
        const char *what;
    } losses[] = {
        {sum.untracked_records, "sockets not tracked: ledger full, or no memory for it"},
        {sum.untracked_fds, "sockets not tracked: file descriptor beyond the ledger's table"},
        {sum.stacks_lost, "stacks not recorded: stack table full, or no memory for it"},
        {sum.snapshots_lost, "reports given up: no memory to look at all sockets"}};
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        char line[192];
        snprintf(line, sizeof line, "%llu %s", (unsigned long long)losses[i].count, losses[i].what);
        if (losses[i].count)
            each(context, line);
    }
}

void format_each_limit(const struct report *report, void (*each)(void *context, const char *line),
                       void *context) {
    char line[FORMAT_LIMIT_BYTES];
    format_each_loss(report, each, context);
    if (format_unwatched(report, line, sizeof line))
        each(context, line);
    for (uint32_t i = 0; i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->note_count; k++) {
            snprintf(line, sizeof line, "process %u: %s", report->processes[i]->pid,
                     report->processes[i]->notes[k]);
            each(context, line);
        }
    for (uint32_t i = 0; i < report->note_count; i++)
        each(context, report->notes[i]);
}
