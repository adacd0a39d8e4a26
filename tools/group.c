#include "group.h"
#include "base_name.h"
#include "errors.h"
#include "hash.h"
#include "report/names.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// --- findings of one process --------------------------------------------------------------------

static uint64_t stack_key(const struct report_stack *stack) {
    return stack ? stack->number + 1u : 0;
}

enum {
    KEYS = 9
};

static void keys_of(const struct report_socket *socket, uint64_t *keys) {
    const struct ledger_record *record = &socket->record;
    keys[0] = record->snapshot.verdict;
    keys[1] = stack_key(socket->birth);
    keys[2] = record->birth_call;
    keys[3] = stack_key(socket->end_of_stream);
    keys[4] = record->eof_call;
    keys[5] = stack_key(socket->error);
    keys[6] = record->error_call;
    keys[7] = (uint64_t)(uintptr_t)socket->suppressed_by;
    keys[8] = (uint64_t)(uint32_t)record->first_fd; // not part of the finding
}

static int by_finding(const void *a, const void *b) {
    uint64_t one[KEYS], other[KEYS];
    keys_of(*(struct report_socket *const *)a, one);
    keys_of(*(struct report_socket *const *)b, other);
    for (int i = 0; i < KEYS; i++)
        if (one[i] != other[i])
            return one[i] < other[i] ? -1 : 1;
    return 0;
}

static bool same_finding(const struct report_socket *a, const struct report_socket *b) {
    uint64_t one[KEYS], other[KEYS];
    keys_of(a, one);
    keys_of(b, other);
    return memcmp(one, other, (KEYS - 1) * sizeof *one) == 0;
}

static void make_finding(struct report_finding *finding, struct report_process *process,
                         struct report_socket **sockets, uint32_t count) {
    *finding = (struct report_finding){
        .process = process,
        .verdict = (enum verdict)sockets[0]->record.snapshot.verdict,
        .sockets = sockets,
        .socket_count = count,
        .suppressed_by = sockets[0]->suppressed_by,
    };
    finding->is_leak = verdict_is_leak(finding->verdict);
}

static void group_process(struct report *report, struct report_process *process) {
    uint32_t count = process->socket_count;
    struct report_socket **sorted = arena_take(&report->arena, count, sizeof *sorted);
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = &process->sockets[i];
    qsort(sorted, count, sizeof *sorted, by_finding);
    uint32_t findings = 0;
    for (uint32_t i = 0; i < count; i++)
        findings += i == 0 || !same_finding(sorted[i - 1], sorted[i]);
    process->findings = arena_take(&report->arena, findings, sizeof *process->findings);
    for (uint32_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && same_finding(sorted[first], sorted[end]);)
            end++;
        make_finding(&process->findings[process->finding_count++], process, sorted + first,
                     end - first);
    }
}

void group_sockets(struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++)
        group_process(report, report->processes[i]);
}

// --- fingerprints -------------------------------------------------------------------------------

static uint64_t print_stack(uint64_t hash, const struct report_stack *stack) {
    for (uint32_t i = 0; stack && i < stack->frame_count; i++) {
        const struct report_frame *frame = &stack->frames[i];
        if (frame->hidden)
            continue; // another libc starts threads in other functions
        hash = hash_string(hash, base_name(frame->module));
        if (frame->function)
            hash = hash_string(hash, frame->function);
        else
            hash = hash_number(hash, frame->module_offset);
    }
    return hash_string(hash, "");
}

static void print_finding(struct report_finding *finding) {
    const struct report_socket *sample = finding->sockets[0];
    uint64_t hash = hash_string(HASH_START, verdict_name(finding->verdict));
    hash = hash_string(hash, report_birth_call(sample));
    hash = print_stack(hash, sample->birth);
    hash = hash_string(hash, sample->record.eof_ns ? name_of_call(sample->record.eof_call) : "");
    hash = print_stack(hash, sample->end_of_stream);
    hash = hash_string(hash, sample->record.error ? name_of_call(sample->record.error_call) : "");
    hash = print_stack(hash, sample->error);
    snprintf(finding->fingerprint, sizeof finding->fingerprint, "%016llx",
             (unsigned long long)hash);
}

void group_fingerprint(struct report *report) {
    for (uint32_t i = 0; i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->finding_count; k++)
            print_finding(&report->processes[i]->findings[k]);
}

// --- findings of all processes ------------------------------------------------------------------

// What makes findings of two processes one: as they are shown, lines included. Stacks of a ledger
// and of a JSON document are different objects even where they show the same.
uint64_t group_identity(const struct report_stack *stack) {
    uint64_t hash = HASH_START;
    for (uint32_t i = 0; stack && i < stack->frame_count; i++) {
        const struct report_frame *frame = &stack->frames[i];
        hash = hash_string(hash, frame->function);
        hash = hash_string(hash, frame->file);
        hash = hash_number(hash, frame->line);
        hash = hash_string(hash, frame->module);
        hash = hash_number(hash, frame->module_offset);
    }
    return hash;
}

struct merging {
    struct report_finding *finding;
    uint64_t keys[8];
    uint32_t order;
};

static void fill_merging(struct merging *out, struct report_finding *finding, uint32_t order) {
    const struct report_socket *sample = finding->sockets[0];
    *out = (struct merging){
        .finding = finding,
        .order = order,
        .keys = {!finding->is_leak, (uint64_t)(uintptr_t)finding->suppressed_by, finding->verdict,
                 (uint64_t)sample->record.birth_call << 16 |
                     (uint64_t)sample->record.eof_call << 8 | sample->record.error_call,
                 group_identity(sample->birth), group_identity(sample->end_of_stream),
                 group_identity(sample->error), finding->is_known},
    };
}

static int by_keys(const void *a, const void *b) {
    const struct merging *one = a, *other = b;
    int keys = memcmp(one->keys, other->keys, sizeof one->keys);
    return keys ? keys : one->order < other->order ? -1 : one->order > other->order;
}

static int by_weight(const void *a, const void *b) {
    const struct report_class *one = a, *other = b;
    const struct report_finding *x = one->findings[0], *y = other->findings[0];
    if (x->is_leak != y->is_leak)
        return x->is_leak ? -1 : 1;
    if (!x->suppressed_by != !y->suppressed_by)
        return x->suppressed_by ? 1 : -1;
    if (x->is_known != y->is_known)
        return x->is_known ? 1 : -1;
    if (one->socket_count != other->socket_count)
        return one->socket_count > other->socket_count ? -1 : 1;
    if (x->verdict != y->verdict)
        return x->verdict < y->verdict ? -1 : 1;
    return strcmp(x->fingerprint, y->fingerprint);
}

static void merge(struct report *report, const struct merging *sorted, uint32_t count) {
    struct report_finding **members = arena_take(&report->arena, count, sizeof *members);
    report->classes = arena_take(&report->arena, count, sizeof *report->classes);
    for (uint32_t i = 0; i < count; i++) {
        bool is_new =
            i == 0 || memcmp(sorted[i - 1].keys, sorted[i].keys, sizeof sorted[i].keys) != 0;
        if (is_new)
            report->classes[report->class_count++].findings = members + i;
        struct report_class *merged = &report->classes[report->class_count - 1];
        members[i] = sorted[i].finding;
        merged->finding_count++;
        merged->socket_count += sorted[i].finding->socket_count;
    }
    qsort(report->classes, report->class_count, sizeof *report->classes, by_weight);
    for (uint32_t i = 0; i < report->class_count; i++)
        for (uint32_t k = 0; k < report->classes[i].finding_count; k++)
            report->classes[i].findings[k]->merged = &report->classes[i];
}

static void make_classes(struct report *report) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->process_count; i++)
        count += report->processes[i]->finding_count;
    struct merging *sorted = must_allocate(count, sizeof *sorted);
    uint32_t at = 0;
    for (uint32_t i = 0; i < report->process_count; i++)
        for (uint32_t k = 0; k < report->processes[i]->finding_count; k++, at++)
            fill_merging(&sorted[at], &report->processes[i]->findings[k], at);
    qsort(sorted, count, sizeof *sorted, by_keys);
    merge(report, sorted, count);
    free(sorted);
}

// --- sums ---------------------------------------------------------------------------------------

static void count_finding(struct report_process *process, const struct report_finding *finding) {
    struct text_totals *totals = &process->totals;
    if (finding->suppressed_by && finding->is_leak) {
        process->suppressed += finding->socket_count;
        return;
    }
    for (uint32_t i = 0; i < finding->socket_count; i++)
        switch (verdict_group(finding->verdict)) {
        case GROUP_CLOSE_WAIT:
            totals->close_wait++;
            break;
        case GROUP_DEAD:
            totals->dead++;
            break;
        default:
            if (finding->sockets[i]->hints & HINT_HELD_BY_PARENT)
                totals->inherited++;
            else
                totals->open++;
        }
}

static void sum_up(struct report *report, struct report_process *process) {
    struct report_summary *summary = &report->summary;
    process->totals = (struct text_totals){
        .open = process->unlisted_open,
        .inherited = process->unlisted_inherited,
        .not_tracked = process->counters.untracked_records + process->counters.untracked_fds,
    };
    for (uint32_t i = 0; i < process->finding_count; i++) {
        const struct report_finding *finding = &process->findings[i];
        count_finding(process, finding);
        if (finding->is_leak && finding->is_known && !finding->suppressed_by)
            summary->known += finding->socket_count;
    }
    summary->leaks += process->totals.close_wait + process->totals.dead;
    summary->open += process->totals.open;
    summary->suppressed += process->suppressed;
    summary->unwatched += process->unwatched != NULL;
}

static int by_pointer(const void *a, const void *b) {
    uintptr_t one = (uintptr_t) * (const char *const *)a,
              other = (uintptr_t) * (const char *const *)b;
    return one < other ? -1 : one > other;
}

// Of the rules' own counts those would be missing that a JSON report was made with.
static uint32_t count_rules(const struct report *report) {
    const char **rules = must_allocate(report->class_count, sizeof *rules);
    uint32_t count = 0, distinct = 0;
    for (uint32_t i = 0; i < report->class_count; i++)
        if (report->classes[i].findings[0]->suppressed_by)
            rules[count++] = report->classes[i].findings[0]->suppressed_by;
    qsort(rules, count, sizeof *rules, by_pointer);
    for (uint32_t i = 0; i < count; i++)
        distinct += i == 0 || rules[i - 1] != rules[i];
    free(rules);
    return distinct;
}

void group_merge(struct report *report) {
    make_classes(report);
    for (uint32_t i = 0; i < report->process_count; i++)
        sum_up(report, report->processes[i]);
    for (uint32_t i = 0; i < report->class_count; i++) {
        const struct report_finding *sample = report->classes[i].findings[0];
        report->summary.findings += sample->is_leak && !sample->suppressed_by;
    }
    report->summary.rules_used = count_rules(report);
}
