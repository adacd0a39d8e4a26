#include "format_threads.h"
#include "report/names.h"
#include "threads.h"
#include <stdlib.h>
#include <string.h>

// --- what is told -------------------------------------------------------------------------------

static const struct report_socket *socket_with(const struct report_process *process,
                                               uint64_t inode) {
    for (uint32_t i = 0; inode && i < process->socket_count; i++)
        if (process->sockets[i].record.inode == inode)
            return &process->sockets[i];
    return NULL;
}

static uint32_t leaks_of(const struct report_process *process, const struct report_thread *thread) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < process->socket_count; i++)
        count += verdict_is_leak((enum verdict)process->sockets[i].record.snapshot.verdict) &&
                 thread_relation(thread, &process->sockets[i]) != 0;
    return count;
}

static bool same_wait(const struct report_thread *a, const struct report_thread *b) {
    return a->call == b->call && a->stack == b->stack && a->fd == b->fd;
}

// 2: it has leaked sockets, 1: it waits on a socket.
static int weight_of(const struct report_process *process, const struct report_thread *thread) {
    return leaks_of(process, thread) ? 2 : thread->fd_inode != 0;
}

// --- text ---------------------------------------------------------------------------------------

enum {
    PHRASE_BYTES = 512
};

// "in recvfrom on fd 7, 127.0.0.1:80 - 127.0.0.1:5555 ESTABLISHED, for 12.3 s"
static void phrase_of(const struct report_process *process, const struct report_thread *thread,
                      char *memory) {
    struct text_buffer text = text_buffer(memory, PHRASE_BYTES);
    const struct report_socket *socket = socket_with(process, thread->fd_inode);
    if (thread->call < 0) {
        text_string(&text, "running");
        return;
    }
    text_string(&text, "blocked in ");
    if (thread->call_name) {
        text_string(&text, thread->call_name);
    } else {
        text_string(&text, "system call ");
        text_signed(&text, thread->call);
    }
    if (thread->fd >= 0) {
        text_string(&text, " on fd ");
        text_signed(&text, thread->fd);
    }
    if (thread->fd_count) {
        text_string(&text, " on ");
        text_decimal(&text, thread->fd_count);
        text_string(&text, " descriptors");
    }
    if (socket) {
        text_string(&text, ", ");
        text_address(&text, &socket->record.local);
        text_string(&text, " - ");
        text_address(&text, &socket->record.peer);
        text_char(&text, ' ');
        text_string(&text, name_of_state(socket->record.snapshot.state));
    } else if (thread->fd_target) {
        text_string(&text, ", ");
        text_foreign(&text, thread->fd_target);
    }
    if (thread->blocked_ms >= 0) {
        text_string(&text, ", for ");
        text_age(&text, (uint64_t)thread->blocked_ms);
    }
}

static void write_leaks(const struct report_process *process, const struct report_thread *thread,
                        uint32_t max_sockets, struct text_lines *lines) {
    uint32_t listed = 0, count = leaks_of(process, thread);
    for (uint32_t i = 0; i < process->socket_count && listed < max_sockets; i++) {
        const struct report_socket *socket = &process->sockets[i];
        enum verdict verdict = (enum verdict)socket->record.snapshot.verdict;
        uint32_t relation = thread_relation(thread, socket);
        if (!relation || !verdict_is_leak(verdict))
            continue;
        listed++;
        text_lines_say(lines, process->pid, "    %s fd %d: %s, %s",
                       relation == (THREAD_OPENED | THREAD_READ_END)
                           ? "opened, and read end of stream on,"
                       : relation == THREAD_OPENED ? "opened"
                                                   : "read end of stream on",
                       (int)socket->record.first_fd, name_of_state(socket->record.snapshot.state),
                       verdict_name(verdict));
    }
    if (count && listed == 0)
        text_lines_say(lines, process->pid, "    %u leaked socket%s, none listed", count,
                       count == 1 ? "" : "s");
    else if (count > listed)
        text_lines_say(lines, process->pid, "    ... and %u more", count - listed);
}

struct stack_writer {
    struct text_lines *lines;
    uint32_t pid;
};

static void write_stack_line(void *context, const char *text) {
    const struct stack_writer *writer = context;
    text_lines_say(writer->lines, writer->pid, "  %s", text);
}

static void write_thread(const struct report_process *process, const struct report_thread *thread,
                         uint32_t equal, uint32_t max_sockets, struct text_lines *lines) {
    char phrase[PHRASE_BYTES];
    struct stack_writer writer = {lines, process->pid};
    phrase_of(process, thread, phrase);
    if (equal)
        text_lines_say(lines, process->pid, "  thread %u %s and %u more: %s", thread->tid,
                       thread->name ? thread->name : "?", equal, phrase);
    else
        text_lines_say(lines, process->pid, "  thread %u %s: %s", thread->tid,
                       thread->name ? thread->name : "?", phrase);
    write_leaks(process, thread, max_sockets, lines);
    if (thread->stack)
        format_stack_lines(thread->stack, write_stack_line, &writer);
    else if (thread->stack_problem && thread->call >= 0)
        text_lines_say(lines, process->pid, "    no stack: %s", thread->stack_problem);
}

static void write_weight(const struct report_process *process, int weight, uint32_t max_sockets,
                         struct text_lines *lines) {
    for (uint32_t i = 0; i < process->thread_count; i++) {
        const struct report_thread *thread = &process->threads[i];
        uint32_t equal = 0;
        bool is_told = false;
        if (weight_of(process, thread) != weight)
            continue;
        for (uint32_t k = 0; weight < 2 && k < process->thread_count; k++) {
            bool is_equal = k != i && weight_of(process, &process->threads[k]) == weight &&
                            same_wait(thread, &process->threads[k]);
            is_told |= is_equal && k < i;
            equal += is_equal && k > i;
        }
        if (!is_told)
            write_thread(process, thread, equal, max_sockets, lines);
    }
}

void format_threads(const struct report_process *process, struct text_lines *lines,
                    uint32_t max_sockets) {
    uint32_t blocked = 0, stopped = 0;
    if (process->thread_count == 0)
        return;
    for (uint32_t i = 0; i < process->thread_count; i++) {
        blocked += process->threads[i].call >= 0;
        stopped += process->threads[i].was_stopped;
    }
    text_lines_say(lines, process->pid, "%u thread%s, %u blocked in a call", process->thread_count,
                   process->thread_count == 1 ? "" : "s", blocked);
    if (stopped)
        text_lines_say(lines, process->pid,
                       "  %u of them stopped for a moment, to see the registers", stopped);
    for (int weight = 2; weight >= 0; weight--)
        write_weight(process, weight, max_sockets, lines);
    text_lines_say(lines, process->pid, "%s", "");
}

// --- JSON ---------------------------------------------------------------------------------------

static json_t *leaks_json(const struct report_process *process,
                          const struct report_thread *thread) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < process->socket_count; i++) {
        const struct report_socket *socket = &process->sockets[i];
        enum verdict verdict = (enum verdict)socket->record.snapshot.verdict;
        uint32_t relation = thread_relation(thread, socket);
        if (!relation || !verdict_is_leak(verdict))
            continue;
        json_t *object = json_object();
        format_json_set(object, "inode", format_json_number((int64_t)socket->record.inode));
        format_json_set(object, "fd", format_json_number(socket->record.first_fd));
        format_json_set(object, "verdict", format_json_text(verdict_name(verdict)));
        format_json_set(object, "opened", json_boolean(relation & THREAD_OPENED));
        format_json_set(object, "read_end_of_stream", json_boolean(relation & THREAD_READ_END));
        format_json_append(array, object);
    }
    return array;
}

static json_t *known(bool is_known, int64_t number) {
    return is_known ? format_json_number(number) : json_null();
}

static json_t *thread_json(const struct report_process *process,
                           const struct report_thread *thread) {
    char state[2] = {thread->state, '\0'};
    json_t *object = json_object();
    format_json_set(object, "tid", format_json_number(thread->tid));
    format_json_set(object, "name", format_json_text(thread->name));
    format_json_set(object, "state", format_json_text(state));
    format_json_set(object, "call", format_json_text(thread->call_name));
    format_json_set(object, "call_number", known(thread->call >= 0, thread->call));
    format_json_set(object, "fd", known(thread->fd >= 0, thread->fd));
    format_json_set(object, "fd_inode", known(thread->fd_inode != 0, (int64_t)thread->fd_inode));
    format_json_set(object, "fd_target", format_json_text(thread->fd_target));
    format_json_set(object, "blocked_ms", known(thread->blocked_ms >= 0, thread->blocked_ms));
    format_json_set(object, "wait_channel", format_json_text(thread->wait_channel));
    format_json_set_stack(object, thread->stack);
    format_json_set(object, "stack_problem", format_json_text(thread->stack_problem));
    format_json_set(object, "was_stopped", json_boolean(thread->was_stopped));
    format_json_set(object, "leaked", leaks_json(process, thread));
    return object;
}

json_t *format_json_threads(const struct report_process *process) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < process->thread_count; i++)
        format_json_append(array, thread_json(process, &process->threads[i]));
    if (process->thread_count)
        return array;
    json_decref(array);
    return NULL;
}
