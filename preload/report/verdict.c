#include "report/verdict.h"
#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>

static const struct {
    const char *name, *explanation;
    enum verdict_group group;
} verdicts[VERDICT_COUNT] = {
    [VERDICT_NOT_JUDGED] = {"not-judged", "no TCP connection", GROUP_NONE},
    [VERDICT_EOF_IGNORED] = {"eof-ignored",
                             "the peer closed, the program read end of stream, and never closed",
                             GROUP_CLOSE_WAIT},
    [VERDICT_FIN_UNREAD] = {"fin-unread",
                            "the peer closed, and the program never read end of stream",
                            GROUP_CLOSE_WAIT},
    [VERDICT_DATA_UNREAD] = {"data-unread",
                             "the peer closed, and the program has not even read its data",
                             GROUP_CLOSE_WAIT},
    [VERDICT_RESET_UNCLOSED] = {"reset-unclosed",
                                "the connection was reset, and the program never closed",
                                GROUP_DEAD},
    [VERDICT_SHUTDOWN_UNCLOSED] = {"shutdown-unclosed",
                                   "both sides ended the connection, the program by shutdown, and "
                                   "it never closed",
                                   GROUP_DEAD},
    [VERDICT_FIN_WAIT] = {"fin-wait", "the program shut down its side and waits for the peer",
                          GROUP_OPEN},
    [VERDICT_NEVER_CONNECTED] = {"never-connected", "opened, and not connected", GROUP_OPEN},
    [VERDICT_OPEN] = {"open", "open", GROUP_OPEN},
};

static uint32_t known(enum verdict verdict) {
    return (unsigned)verdict < VERDICT_COUNT ? verdict : VERDICT_NOT_JUDGED;
}

enum verdict_group verdict_group(enum verdict verdict) {
    return verdicts[known(verdict)].group;
}

bool verdict_is_leak(enum verdict verdict) {
    enum verdict_group group = verdict_group(verdict);
    return group == GROUP_CLOSE_WAIT || group == GROUP_DEAD;
}

const char *verdict_name(enum verdict verdict) {
    return verdicts[known(verdict)].name;
}

const char *verdict_explanation(enum verdict verdict) {
    return verdicts[known(verdict)].explanation;
}

const char *verdict_explanation_of(enum verdict verdict, const struct ledger_record *sample) {
    if (verdict == VERDICT_FIN_UNREAD && sample->birth_call == CALL_UNKNOWN)
        return "the peer closed, and no read of end of stream was seen";
    if (verdict == VERDICT_RESET_UNCLOSED && verdict_died_unseen(sample))
        return "the connection is dead (reset, or ended by both sides: neither was seen), and the "
               "program never closed";
    return verdict_explanation(verdict);
}

const char *verdict_group_name(enum verdict_group group) {
    switch (group) {
    case GROUP_CLOSE_WAIT:
        return "close-wait";
    case GROUP_DEAD:
        return "dead";
    case GROUP_OPEN:
        return "open";
    case GROUP_NONE:
        break;
    }
    return "none";
}

bool verdict_is_inherited(const struct ledger_record *record, uint32_t process) {
    return record->process != process;
}

// ECONNRESET and EPIPE come from a connection; the other errors also from the attempt at one.
static bool was_connected(const struct ledger_record *record) {
    return (record->flags & RECORD_CONNECTED) || record->eof_ns || record->error == ECONNRESET ||
           record->error == EPIPE || (record->snapshot.flags & SNAPSHOT_WAS_CONNECTED);
}

static enum verdict of_dead(const struct ledger_record *record) {
    if (!was_connected(record))
        return VERDICT_NEVER_CONNECTED;
    bool by_error = record->error || (record->snapshot.flags & SNAPSHOT_ERROR_PENDING);
    return (record->flags & RECORD_SHUT_WR) && !by_error ? VERDICT_SHUTDOWN_UNCLOSED
                                                         : VERDICT_RESET_UNCLOSED;
}

static enum verdict of_state(const struct ledger_record *record) {
    switch (record->snapshot.state) {
    case STATE_CLOSE_WAIT:
        if (record->eof_ns)
            return VERDICT_EOF_IGNORED;
        return record->snapshot.recv_queue_bytes ? VERDICT_DATA_UNREAD : VERDICT_FIN_UNREAD;
    case STATE_CLOSE:
        return of_dead(record);
    case STATE_LAST_ACK:
    case STATE_TIME_WAIT:
    case STATE_CLOSING:
        return VERDICT_SHUTDOWN_UNCLOSED;
    case STATE_FIN_WAIT1:
    case STATE_FIN_WAIT2:
        return VERDICT_FIN_WAIT;
    default:
        return VERDICT_OPEN;
    }
}

bool verdict_is_answering(const struct ledger_record *record, uint32_t grace_ms) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    return snapshot->state == STATE_CLOSE_WAIT && (snapshot->flags & SNAPSHOT_HAS_TCP_INFO) &&
           (snapshot->send_queue_bytes > 0 || snapshot->last_data_sent_ms < grace_ms);
}

static uint64_t ms_between(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (to_ns - from_ns) / 1000000 : 0;
}

// The program must have had its chance to close.
static bool is_due(const struct ledger_record *record, enum verdict verdict,
                   const struct verdict_rules *rules) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    uint32_t grace_ms = rules->at_end ? rules->end_grace_ms : rules->grace_ms;
    if (rules->at_end && verdict == VERDICT_EOF_IGNORED &&
        (snapshot->flags & SNAPSHOT_READER_WENT_ON))
        return true;
    if (!(snapshot->flags & SNAPSHOT_AGE_IS_BOUND))
        return snapshot->state_age_ms >= grace_ms && !verdict_is_answering(record, grace_ms);
    // Nothing tells when a reset came that the program was not told of: the age is at most that of
    // the last sign of life. But who has read end of stream could close from then on.
    if (rules->at_end && record->eof_ns)
        return ms_between(record->eof_ns, snapshot->taken_ns) >= grace_ms;
    // The longer grace leaves little room for a wrong accusation.
    if (rules->grace_ms > grace_ms)
        grace_ms = rules->grace_ms;
    return snapshot->state_age_ms >= grace_ms && !verdict_is_answering(record, grace_ms);
}

static bool is_asked_for(const struct ledger_record *record, const struct verdict_rules *rules) {
    if (record->type != SOCK_STREAM || record->snapshot.state == STATE_LISTEN)
        return false;
    if (record->family == AF_UNIX)
        return rules->unix_sockets;
    return rules->inet_sockets && (record->family == AF_INET || record->family == AF_INET6);
}

static enum verdict last_known(const struct ledger_record *record) {
    if (record->error)
        return of_dead(record);
    return record->eof_ns ? VERDICT_EOF_IGNORED : VERDICT_OPEN;
}

enum verdict verdict_of(const struct ledger_record *record, const struct verdict_rules *rules) {
    if (!is_asked_for(record, rules))
        return VERDICT_NOT_JUDGED;
    if (!(record->snapshot.flags & SNAPSHOT_TAKEN))
        return last_known(record);
    enum verdict verdict = of_state(record);
    if (!verdict_is_leak(verdict))
        return verdict;
    // Another process's affair: the parent still has it, or we were started with it as stdin.
    if (record->snapshot.flags & (SNAPSHOT_HELD_BY_PARENT | SNAPSHOT_STANDARD_STREAM))
        return VERDICT_OPEN;
    return is_due(record, verdict, rules) ? verdict : VERDICT_OPEN;
}
