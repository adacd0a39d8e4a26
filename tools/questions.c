// Small questions to a report and what is in it: see model.h. They need nothing but the report, so
// that whoever gathers, judges or renders may ask them.
#include "model.h"
#include "report/names.h"
#include <string.h>

// --- names --------------------------------------------------------------------------------------

enum verdict verdict_named(const char *name) {
    for (int i = 0; i < VERDICT_COUNT; i++)
        if (strcmp(verdict_name((enum verdict)i), name) == 0)
            return (enum verdict)i;
    return VERDICT_COUNT;
}

const char *report_ended_name(enum report_ended ended) {
    static const char *const names[REPORT_ENDED_COUNT] = {
        [REPORT_RUNNING] = "running",       [REPORT_EXIT] = "exit",
        [REPORT_UNDERSCORE_EXIT] = "_exit", [REPORT_SIGNAL] = "signal",
        [REPORT_KILLED] = "killed",         [REPORT_EXEC] = "exec",
    };
    return names[ended];
}

const char *report_birth_call(const struct report_socket *socket) {
    return name_of_call(socket->record.birth_call);
}

const char *report_program(const struct report_process *process) {
    if (process->cmdline_count && process->cmdline[0][0])
        return process->cmdline[0];
    return process->exe[0] ? process->exe : "this process";
}

// --- times --------------------------------------------------------------------------------------

int64_t report_socket_open_ms(const struct report_socket *socket) {
    const struct ledger_record *record = &socket->record;
    uint64_t now = record->snapshot.flags & SNAPSHOT_TAKEN ? record->snapshot.taken_ns
                                                           : socket->process->now_ns;
    if (!record->birth_ns || now < record->birth_ns)
        return -1;
    return (int64_t)((now - record->birth_ns) / 1000000);
}

int64_t report_socket_fin_age_ms(const struct report_socket *socket) {
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    bool has_age = snapshot->state == STATE_CLOSE_WAIT &&
                   ((snapshot->flags & SNAPSHOT_HAS_TCP_INFO) || socket->record.eof_ns);
    return (snapshot->flags & SNAPSHOT_TAKEN) && has_age ? (int64_t)snapshot->state_age_ms : -1;
}

bool report_socket_fin_is_bound(const struct report_socket *socket) {
    struct report_teardown steps;
    report_socket_teardown(socket, &steps);
    for (unsigned i = 0; i < steps.count; i++)
        if (steps.events[i].event.step == TEARDOWN_PEER_FIN)
            return steps.events[i].event.time == TEARDOWN_TIME_NOT_AFTER;
    return false;
}

// --- hints --------------------------------------------------------------------------------------

uint32_t report_finding_hints(const struct report_finding *finding) {
    uint32_t hints = 0;
    for (uint32_t i = 0; i < finding->socket_count; i++)
        hints |= finding->sockets[i]->hints;
    return hints;
}

// --- where to point at --------------------------------------------------------------------------

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_own(const struct report_frame *frame) {
    static const char *const systems[] = {"/usr/include/", "/usr/lib/", "/usr/src/", "/lib/",
                                          "/build/",       "/rustc/",   "../",       "./csu/",
                                          "./nptl/",       "./socket/"};
    if (!frame->file || frame->hidden)
        return false;
    for (size_t i = 0; i < sizeof systems / sizeof *systems; i++)
        if (starts_with(frame->file, systems[i]))
            return false;
    return !frame->module ||
           (!starts_with(frame->module, "/usr/lib/") && !starts_with(frame->module, "/lib/"));
}

const struct report_frame *report_own_frame(const struct report_stack *stack) {
    for (uint32_t i = 0; stack && i < stack->frame_count; i++)
        if (is_own(&stack->frames[i]))
            return &stack->frames[i];
    for (uint32_t i = 0; stack && i < stack->frame_count; i++)
        if (stack->frames[i].function)
            return &stack->frames[i];
    return stack && stack->frame_count ? &stack->frames[0] : NULL;
}

const struct report_frame *report_finding_frame(const struct report_finding *finding) {
    const struct report_socket *sample = finding->sockets[0];
    const struct report_frame *told =
        report_own_frame(sample->end_of_stream ? sample->end_of_stream : sample->error);
    return told ? told : report_own_frame(sample->birth);
}
