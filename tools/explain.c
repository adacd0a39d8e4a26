// How a socket's connection ended: report/teardown.h with the times and stacks of a report.
#include "model.h"

static const struct report_stack *stack_of(const struct report_socket *socket,
                                           const struct teardown_event *event) {
    if (!event->happened)
        return NULL;
    switch (event->step) {
    case TEARDOWN_EOF_READ:
        return socket->end_of_stream;
    case TEARDOWN_ERROR_READ:
        return socket->error;
    case TEARDOWN_OUR_FIN:
        return socket->shutdown;
    default:
        return NULL;
    }
}

// The last look at the socket, or else the moment that its process was found running.
static uint64_t look_ns(const struct report_socket *socket) {
    const struct ledger_snapshot *snapshot = &socket->record.snapshot;
    return snapshot->flags & SNAPSHOT_TAKEN ? snapshot->taken_ns : socket->process->now_ns;
}

void report_socket_teardown(const struct report_socket *socket, struct report_teardown *out) {
    struct teardown steps;
    if (socket->teardown) {
        *out = *socket->teardown;
        return;
    }
    *out = (struct report_teardown){.first = TEARDOWN_FIRST_NOBODY};
    if (socket->process->is_judged)
        return; // of a document that did not say
    teardown_of(&socket->record, &steps);
    uint64_t now_ns = look_ns(socket), offset_ns = socket->process->epoch_offset_ns;
    out->first = steps.first;
    for (unsigned i = 0; i < steps.count; i++) {
        struct report_event *event = &out->events[out->count++];
        *event = (struct report_event){.event = steps.events[i], .ago_ms = -1, .epoch_ms = -1};
        event->stack = stack_of(socket, &steps.events[i]);
        uint64_t ns = steps.events[i].ns;
        if (ns && now_ns >= ns)
            event->ago_ms = (int64_t)((now_ns - ns) / 1000000);
        if (ns && offset_ns)
            event->epoch_ms = (int64_t)((ns + offset_ns) / 1000000);
    }
}
