// A scan as JSON: schema "sockleak-scan/1". Stable; new keys may appear.
#include "errors.h"
#include "format.h"
#include "report/names.h"
#include "report/text.h"
#include "scan.h"
#include <jansson.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

static json_t *must(json_t *value) {
    if (!value) {
        error_say("out of memory");
        exit(STATUS_FAILED);
    }
    return value;
}

static json_t *address(const struct ledger_address *wanted) {
    char memory[80];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    if (wanted->family == ADDRESS_NONE)
        return must(json_null());
    text_address(&text, wanted);
    if (wanted->port == 0)
        *strrchr(memory, ':') = '\0';
    return must(json_string(memory));
}

static json_t *user(uid_t uid) {
    const struct passwd *entry = getpwuid(uid);
    json_t *name = entry ? json_string(entry->pw_name) : NULL;
    return name ? name : must(json_null());
}

static json_t *socket_of(const struct scan_socket *socket) {
    const struct diag_socket *kernel = &socket->kernel;
    json_t *fds = must(json_array());
    for (uint32_t i = 0; i < socket->fd_count; i++)
        json_array_append_new(fds, must(json_integer(socket->fds[i])));
    return must(json_pack(
        "{s:o, s:o, s:s, s:s, s:o, s:o, s:s, s:o, s:b, s:I, s:I, s:b, s:b}", "fds", fds, "inode",
        kernel->inode ? json_integer((json_int_t)kernel->inode) : json_null(), "family",
        kernel->local.family == ADDRESS_INET ? "inet" : "inet6", "protocol", "tcp", "local",
        address(&kernel->local), "peer", address(&kernel->peer), "state",
        name_of_state(kernel->state), "fin_age_ms",
        kernel->has_info ? json_integer(kernel->last_ack_recv_ms) : json_null(), "eof_read",
        (int)kernel->fin_read, "recv_queue", (json_int_t)kernel->recv_queue_bytes, "send_queue",
        (json_int_t)kernel->send_queue_bytes, "accepted",
        (int)(socket->is_from_peer && !socket->is_waiting), "in_accept_queue",
        (int)socket->is_waiting));
}

static json_t *peer_of(const struct scan_peer *peer) {
    return must(json_pack("{s:o, s:o, s:I, s:I, s:b}", "peer", address(&peer->address),
                          "local_port",
                          peer->local_port ? json_integer(peer->local_port) : json_null(), "count",
                          (json_int_t)peer->count, "oldest_ms", (json_int_t)peer->oldest_ms,
                          "in_accept_queue", (int)peer->is_waiting));
}

static json_t *process_of(const struct scan_process *process) {
    json_t *peers = must(json_array()), *sockets = must(json_array());
    for (uint32_t i = 0; i < process->peer_count; i++)
        json_array_append_new(peers, peer_of(&process->peers[i]));
    for (uint32_t i = 0; i < process->socket_count; i++)
        json_array_append_new(sockets, socket_of(&process->sockets[i]));
    return must(json_pack(
        "{s:o, s:o, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "pid",
        process->pid ? json_integer(process->pid) : json_null(), "command",
        process->pid ? json_string_nocheck(process->title) : json_null(), "uid",
        (json_int_t)process->uid, "user", user(process->uid), "close_wait",
        (json_int_t)process->socket_count, "oldest_ms", (json_int_t)process->oldest_ms, "eof_read",
        (json_int_t)process->eof_read, "eof_unread", (json_int_t)process->eof_unread, "data_unread",
        (json_int_t)process->data_unread, "unread_bytes", (json_int_t)process->unread_bytes,
        "not_accepted", (json_int_t)process->not_accepted, "peers", peers, "sockets", sockets));
}

static json_t *destination_of(const struct scan_destination *destination) {
    json_t *share = destination->port_count
                        ? json_real((double)destination->count / destination->port_count)
                        : json_null();
    return must(
        json_pack("{s:o, s:o, s:I, s:o, s:o}", "local", address(&destination->local), "peer",
                  address(&destination->peer), "count", (json_int_t)destination->count, "ports",
                  destination->port_count ? json_integer(destination->port_count) : json_null(),
                  "share", must(share)));
}

static json_t *summary_of(const struct scan_result *result) {
    return must(json_pack(
        "{s:I, s:I, s:I, s:o, s:I, s:o, s:I, s:I, s:I, s:I}", "close_wait",
        (json_int_t)result->close_wait, "not_accepted", (json_int_t)result->not_accepted,
        "processes", (json_int_t)result->process_count, "oldest_ms",
        result->close_wait ? json_integer(result->oldest_ms) : json_null(), "younger",
        (json_int_t)result->younger, "time_wait",
        result->filter.pid ? json_null() : json_integer(result->time_wait), "namespaces",
        (json_int_t)result->namespaces, "namespaces_not_seen", (json_int_t)result->blind_namespaces,
        "processes_not_seen", (json_int_t)result->blind_processes, "processes_not_readable",
        (json_int_t)result->unread_processes));
}

void scan_write_json(const struct scan_result *result, bool compact, FILE *out) {
    json_t *processes = must(json_array());
    json_t *destinations = must(result->filter.pid ? json_null() : json_array());
    for (uint32_t i = 0; i < result->process_count; i++)
        json_array_append_new(processes, process_of(&result->processes[i]));
    for (uint32_t i = 0; i < result->destination_count; i++)
        json_array_append_new(destinations, destination_of(&result->destinations[i]));
    json_t *range = result->last_port ? json_pack("[i, i]", result->first_port, result->last_port)
                                      : json_null();
    json_t *document = must(json_pack(
        "{s:s, s:{s:s, s:s}, s:o, s:o, s:o, s:o}", "schema", "sockleak-scan/1", "tool", "name",
        "sockleak", "version", SOCKLEAK_VERSION, "processes", processes, "time_wait", destinations,
        "port_range", must(range), "summary", summary_of(result)));
    json_dumpf(document, out, FORMAT_JSON_ASCII | (compact ? JSON_COMPACT : JSON_INDENT(1)));
    fputc('\n', out);
    json_decref(document);
}
