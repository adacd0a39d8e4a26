// What a snapshot's sockets are guilty of, and which of them are one finding.
#include "base/options.h"
#include "report/facts.h"
#include "report/parts.h"
#include "report/threads.h"

// --- judging ------------------------------------------------------------------------------------

void findings_judge(struct report *report, enum ledger_ended ended) {
    report->rules = (struct verdict_rules){
        .at_end = ended != ENDED_RUNNING,
        .unix_sockets = options.families != FAMILIES_INET,
        .inet_sockets = options.families != FAMILIES_UNIX,
        .grace_ms = (uint32_t)options.grace_ms,
        .end_grace_ms = (uint32_t)options.exit_grace_ms,
    };
    for (uint32_t i = 0; i < report->snapshot.socket_count; i++) {
        struct ledger_record *record = ledger_record(report->snapshot.sockets[i]);
        enum verdict verdict = verdict_of(record, &report->rules);
        record->snapshot.verdict = (uint8_t)verdict;
        switch (verdict_group(verdict)) {
        case GROUP_CLOSE_WAIT:
            report->totals.close_wait++;
            break;
        case GROUP_DEAD:
            report->totals.dead++;
            break;
        case GROUP_OPEN:
            if (record->snapshot.flags & SNAPSHOT_HELD_BY_PARENT)
                report->totals.inherited++;
            else
                report->totals.open++;
            break;
        case GROUP_NONE:
            break;
        }
    }
}

// --- explaining ---------------------------------------------------------------------------------

struct cause_facts finding_facts(const struct report *report, const struct ledger_record *record) {
    const struct ledger_snapshot *snapshot = &record->snapshot;
    return (struct cause_facts){
        .process = ledger.header->process,
        .grace_ms = report->rules.at_end ? report->rules.end_grace_ms : report->rules.grace_ms,
        .waited_on = snapshot->thread_fd_type ? ledger_record(snapshot->thread_fd_record) : NULL,
        .site = record->birth_stack ? &ledger.stacks[record->birth_stack] : NULL,
    };
}

void findings_explain(struct report *report) {
    const struct snapshot *snapshot = &report->snapshot;
    threads_look_at(snapshot, &report->scratch);
    for (uint32_t i = 0; i < snapshot->socket_count; i++) {
        struct ledger_record *record = ledger_record(snapshot->sockets[i]);
        struct cause_facts facts = finding_facts(report, record);
        if (verdict_is_leak((enum verdict)record->snapshot.verdict)) {
            facts_look_at_properties(record);
            if (facts.waited_on && !facts.waited_on->snapshot.properties_known)
                facts_look_at_properties(ledger_record(record->snapshot.thread_fd_record));
        }
        record->snapshot.cause = (uint8_t)cause_of(record, &facts);
    }
}

// --- ordering -----------------------------------------------------------------------------------

// 0 for sockets of one finding. Leaks come first.
static int compare_findings(const struct ledger_record *a, const struct ledger_record *b) {
    const uint64_t keys[][2] = {
        {a->snapshot.verdict, b->snapshot.verdict},
        {a->birth_stack, b->birth_stack},
        {a->birth_call, b->birth_call},
        {a->eof_stack, b->eof_stack},
        {a->error_stack, b->error_stack},
    };
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i][0] != keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    return 0;
}

static bool same_finding(uint32_t a, uint32_t b) {
    return compare_findings(ledger_record(a), ledger_record(b)) == 0;
}

// Orders sockets so that those of one finding are neighbours.
static int compare(uint32_t a_number, uint32_t b_number) {
    const struct ledger_record *a = ledger_record(a_number), *b = ledger_record(b_number);
    int order = compare_findings(a, b);
    return order ? order : (a->first_fd > b->first_fd) - (a->first_fd < b->first_fd);
}

static void sift_down(uint32_t *heap, uint32_t at, uint32_t count) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && compare(heap[child], heap[child + 1]) < 0)
            child++;
        if (compare(heap[at], heap[child]) >= 0)
            return;
        uint32_t swapped = heap[at];
        heap[at] = heap[child];
        heap[child] = swapped;
        at = child;
    }
}

// Heapsort: in place, no recursion, no bad case; libc's qsort may malloc.
static void sort(uint32_t *sockets, uint32_t count) {
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(sockets, i, count);
    for (uint32_t end = count; end-- > 1;) {
        uint32_t last = sockets[0];
        sockets[0] = sockets[end];
        sockets[end] = last;
        sift_down(sockets, 0, end);
    }
}

uint32_t finding_end(const struct report *report, uint32_t first) {
    uint32_t end = first + 1;
    while (end < report->snapshot.socket_count &&
           same_finding(report->snapshot.sockets[first], report->snapshot.sockets[end]))
        end++;
    return end;
}

void findings_sort(struct report *report) {
    const struct snapshot *snapshot = &report->snapshot;
    sort(snapshot->sockets, snapshot->socket_count);
    for (uint32_t i = 0; i < snapshot->socket_count; i = finding_end(report, i))
        if (verdict_is_leak((enum verdict)ledger_record(snapshot->sockets[i])->snapshot.verdict))
            report->findings++;
}
