// A scan as a table for people.
#include "report/text.h"
#include "scan.h"
#include <inttypes.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

enum {
    ADDRESS_BYTES = 80,
    DESTINATIONS_MAX = 10,
    TITLE_MIN = 11, // what 80 columns leave
    SHARE_WARN_PERCENT = 50
};

static const char *color(const struct scan_look *look, const char *code) {
    return look->color ? code : "";
}

static const char *age(uint64_t ms) {
    static char memory[32];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    text_age(&text, ms);
    return memory;
}

// Without its port where that is 0.
static const char *address(const struct ledger_address *wanted) {
    static char memory[ADDRESS_BYTES];
    struct text_buffer text = text_buffer(memory, sizeof memory);
    text_address(&text, wanted);
    if (wanted->port == 0) {
        char *colon = strrchr(memory, ':');
        if (colon)
            *colon = '\0';
    }
    return memory;
}

static void write_user(uid_t uid, FILE *out) {
    const struct passwd *user = getpwuid(uid);
    char number[16];
    snprintf(number, sizeof number, "%u", (unsigned)uid);
    fprintf(out, "%-8.8s", user ? user->pw_name : number);
}

static void write_peers(const struct scan_process *process, const struct scan_look *look,
                        FILE *out) {
    for (uint32_t i = 0; i < process->peer_count && i < look->peers_max; i++) {
        const struct scan_peer *peer = &process->peers[i];
        fprintf(out, "%s%10" PRIu32 "  %8s  ", color(look, "\033[2m"), peer->count,
                age(peer->oldest_ms));
        if (peer->local_port)
            fprintf(out, "on port %u from %s%s", peer->local_port, address(&peer->address),
                    peer->is_waiting ? ", not accepted yet" : "");
        else
            fprintf(out, "to %s", address(&peer->address));
        fprintf(out, "%s\n", color(look, "\033[0m"));
    }
    if (process->peer_count > look->peers_max)
        fprintf(out, "%s            ... and %" PRIu32 " more peers%s\n", color(look, "\033[2m"),
                process->peer_count - look->peers_max, color(look, "\033[0m"));
}

// Without the program's directory where there is no room for all.
static const char *fitting(const char *title, size_t room) {
    const char *start = title;
    for (const char *at = title; strlen(title) > room && *at && *at != ' '; at++)
        if (*at == '/' && at[1] && at[1] != ' ')
            start = at + 1;
    return title[0] == '/' ? start : title;
}

static void write_process(const struct scan_process *process, const struct scan_look *look,
                          FILE *out) {
    char front[96];
    int front_len = snprintf(front, sizeof front,
                             "%10" PRIu32 "  %8s  %8" PRIu32 "  %10" PRIu32 "  %4" PRIu32 "  ",
                             process->socket_count, age(process->oldest_ms), process->eof_read,
                             process->eof_unread, process->data_unread);
    char pid[16] = "-";
    if (process->pid)
        snprintf(pid, sizeof pid, "%d", (int)process->pid);
    fprintf(out, "%s%s%s%7s  ", color(look, "\033[1m"), front, color(look, "\033[0m"), pid);
    write_user(process->uid, out);
    int used = front_len + 7 + 2 + 8 + 2;
    int room = look->width == 0                           ? (int)strlen(process->title)
               : (int)look->width - used > (int)TITLE_MIN ? (int)look->width - used
                                                          : TITLE_MIN;
    fprintf(out, "  %.*s\n", room, fitting(process->title, (size_t)room));
    write_peers(process, look, out);
}

static void write_close_wait(const struct scan_result *result, const struct scan_look *look,
                             FILE *out) {
    if (result->process_count == 0)
        return;
    fprintf(out, "CLOSE_WAIT    OLDEST  EOF READ  EOF UNREAD  DATA      PID  USER      COMMAND\n");
    for (uint32_t i = 0; i < result->process_count; i++)
        write_process(&result->processes[i], look, out);
    fputc('\n', out);
}

static void write_time_wait(const struct scan_result *result, const struct scan_look *look,
                            FILE *out) {
    if (result->destination_count == 0)
        return;
    fprintf(out, " TIME_WAIT  OF THE PORTS  DESTINATION\n");
    for (uint32_t i = 0; i < result->destination_count && i < DESTINATIONS_MAX; i++) {
        const struct scan_destination *destination = &result->destinations[i];
        double percent =
            destination->port_count ? 100.0 * destination->count / destination->port_count : 0;
        bool is_scarce = percent >= SHARE_WARN_PERCENT;
        fprintf(out, "%s%10" PRIu32 "  ", color(look, is_scarce ? "\033[31m" : ""),
                destination->count);
        if (destination->port_count)
            fprintf(out, "%11.1f %%  ", percent);
        else
            fprintf(out, "%13s  ", "-");
        fprintf(out, "%s from ", address(&destination->peer));
        fprintf(out, "%s%s\n", address(&destination->local),
                color(look, is_scarce ? "\033[0m" : ""));
    }
    if (result->destination_count > DESTINATIONS_MAX)
        fprintf(out, "            ... and %" PRIu32 " more destinations\n",
                result->destination_count - DESTINATIONS_MAX);
    fputc('\n', out);
}

// Sockets of which no process is known.
static uint32_t count_nobodys(const struct scan_result *result) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < result->process_count; i++)
        count += result->processes[i].pid == 0 ? result->processes[i].socket_count : 0;
    return count;
}

// Sockets that are nobody's stand in one row for each user: that is no process.
static void write_whose(const struct scan_result *result, FILE *out) {
    uint32_t processes = 0, nobodys = count_nobodys(result);
    for (uint32_t i = 0; i < result->process_count; i++)
        processes += result->processes[i].pid != 0;
    if (processes && nobodys)
        fprintf(out, ", %" PRIu32, result->close_wait - nobodys);
    if (processes)
        fprintf(out, " in %" PRIu32 " process%s", processes, processes == 1 ? "" : "es");
    if (processes && nobodys)
        fprintf(out, " and %" PRIu32, nobodys);
    // One that nobody has may be on its way to a process: unix(7), SCM_RIGHTS.
    if (nobodys)
        fprintf(out, "%s whose process%s", processes ? "" : ",",
                result->unread_processes
                    ? nobodys == 1 ? " may not be looked at" : "es may not be looked at"
                : nobodys == 1 ? " is not known"
                               : "es are not known");
}

static void write_time_wait_sum(const struct scan_result *result, FILE *out) {
    if (result->filter.pid)
        return;
    fprintf(out, "%" PRIu32 " in TIME_WAIT", result->time_wait);
    if (result->filter.port)
        fprintf(out, " of port %u", result->filter.port);
    if (result->last_port)
        fprintf(out, "; local ports for each destination: %u-%u", result->first_port,
                result->last_port);
    fputc('\n', out);
}

static void write_summary(const struct scan_result *result, FILE *out) {
    fprintf(out, "%" PRIu32 " socket%s in CLOSE_WAIT", result->close_wait,
            result->close_wait == 1 ? "" : "s");
    if (result->close_wait) {
        write_whose(result, out);
        fprintf(out, ", the oldest for %s", age(result->oldest_ms));
    }
    if (result->not_accepted)
        fprintf(out,
                "\n%" PRIu32
                " of them not accepted yet: they wait for their program to call accept",
                result->not_accepted);
    fputc('\n', out);
    if (result->younger)
        fprintf(out, "%" PRIu32 " younger than --older %s left out, the oldest for %s\n",
                result->younger, result->younger == 1 ? "is" : "are",
                age(result->younger_oldest_ms));
    write_time_wait_sum(result, out);
    // Where each socket has its process, those have none of them.
    if (result->unread_processes && count_nobodys(result))
        fprintf(out,
                "%" PRIu32
                " process%s of other users or with more rights may not be looked at: %s\n",
                result->unread_processes, result->unread_processes == 1 ? "" : "es",
                geteuid() == 0 ? "whose the sockets are is not known"
                               : "run as root to know whose the sockets are");
    if (result->blind_namespaces)
        fprintf(out,
                "%" PRIu32 " process%s in %" PRIu32 " other network namespace%s (containers) "
                "not looked at: run as root\n",
                result->blind_processes, result->blind_processes == 1 ? "" : "es",
                result->blind_namespaces, result->blind_namespaces == 1 ? "" : "s");
}

void scan_write_text(const struct scan_result *result, const struct scan_look *look, FILE *out) {
    write_close_wait(result, look, out);
    write_time_wait(result, look, out);
    write_summary(result, out);
}
