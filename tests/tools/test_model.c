// Ledgers into findings: reader, joins, verdicts without a snapshot, grouping, merging.
#include "ledger_image.h"
#include "model.h"
#include "sites.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h> // wants the others before it

static struct ledger_image image;

static struct report *report_of(struct ledger_image *one, struct ledger_image *other) {
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    assert_int_equal(report_add_ledger_memory(report, one, sizeof *one, "one"), 0);
    if (other)
        assert_int_equal(report_add_ledger_memory(report, other, sizeof *other, "other"), 0);
    assert_int_equal(report_finish(report, &options), 0);
    return report;
}

// `image` becomes process 100, and ignores one end of stream, where it was born: a stack of so many
// frames from 0x1000 on. Returns its number.
static uint32_t image_of_one_leak(uint16_t depth) {
    image_init(&image, 100);
    uint32_t birth = image_stack(&image, 0x1000, depth);
    image_ignore_eof(image_socket(&image, birth), birth);
    return birth;
}

static void sockets_of_one_verdict_and_stacks_are_one_finding(void **state) {
    (void)state;
    image_init(&image, 100);
    uint32_t birth = image_stack(&image, 0x1000, 2), eof = image_stack(&image, 0x2000, 3);
    for (int i = 0; i < 3; i++)
        image_ignore_eof(image_socket(&image, birth), eof);
    image_ignore_eof(image_socket(&image, eof), eof);
    image_socket(&image, birth);
    struct report *report = report_of(&image, NULL);
    assert_int_equal(report->process_count, 1);
    const struct report_process *process = report->processes[0];
    assert_int_equal(process->finding_count, 3); // the open one, too
    assert_int_equal(report->summary.leaks, 4);
    assert_int_equal(report->summary.findings, 2);
    assert_int_equal(report->summary.open, 1);
    assert_int_equal(report->classes[0].socket_count, 3);
    const struct report_socket *socket = report->classes[0].findings[0]->sockets[0];
    assert_int_equal(socket->fd_count, 1);
    assert_int_equal(socket->fds[0], 3);
    assert_int_equal(socket->birth->frame_count, 2);
    assert_int_equal(socket->end_of_stream->frame_count, 3);
    assert_string_equal(socket->birth->frames[0].module, "/opt/server");
    assert_int_equal(socket->birth->frames[1].module_offset, 0x1010);
    assert_int_equal(report_socket_open_ms(socket), 8000);
    assert_int_equal(report_socket_fin_age_ms(socket), 5000);
    report_free(report);
}

static void process_is_told_by_its_header(void **state) {
    (void)state;
    image_init(&image, 100);
    image.header.ended = ENDED_SIGNAL;
    image.header.end_status = 143;
    struct report *report = report_of(&image, NULL);
    const struct report_process *process = report->processes[0];
    assert_int_equal(process->pid, 100);
    assert_int_equal(process->parent_pid, 1);
    assert_string_equal(process->exe, "/opt/server");
    assert_int_equal(process->cmdline_count, 2);
    assert_string_equal(process->cmdline[1], "-v");
    assert_int_equal(process->ended, REPORT_SIGNAL);
    assert_int_equal(process->end_status, 143);
    report_free(report);
}

static void dup_counts_once_and_shows_both_descriptors(void **state) {
    (void)state;
    image_of_one_leak(1);
    image.fds[9] = 1;
    image.header.regions[LEDGER_FDS].used = 10;
    struct report *report = report_of(&image, NULL);
    const struct report_socket *socket = &report->processes[0]->sockets[0];
    assert_int_equal(report->summary.leaks, 1);
    assert_int_equal(socket->fd_count, 2);
    assert_int_equal(socket->fds[1], 9);
    assert_true(socket->hints & HINT_DUPLICATED);
    report_free(report);
}

static void equal_findings_of_two_processes_are_merged(void **state) {
    (void)state;
    static struct ledger_image other;
    image_init(&other, 200);
    image_of_one_leak(2);
    image_stack(&other, 0x5000, 1); // another id, the same stack
    uint32_t birth = image_stack(&other, 0x1000, 2);
    image_ignore_eof(image_socket(&other, birth), birth);
    struct report *report = report_of(&image, &other);
    assert_int_equal(report->summary.leaks, 2);
    assert_int_equal(report->summary.findings, 1);
    assert_int_equal(report->classes[0].finding_count, 2);
    report_free(report);
}

static void killed_process_is_judged_by_what_it_was_told(void **state) {
    (void)state;
    uint32_t birth = image_of_one_leak(2);
    image_socket(&image, birth);
    image_kill(&image);
    struct report *report = report_of(&image, NULL);
    assert_int_equal(report->processes[0]->ended, REPORT_KILLED);
    assert_int_equal(report->summary.leaks, 1);
    const struct report_finding *finding = report->classes[0].findings[0];
    assert_int_equal(finding->verdict, VERDICT_EOF_IGNORED);
    assert_true(finding->sockets[0]->hints & HINT_LAST_KNOWN);
    assert_int_equal(report_socket_fin_age_ms(finding->sockets[0]), -1);
    assert_int_equal(report_socket_open_ms(finding->sockets[0]), -1);
    report_free(report);
}

static void counters_of_a_call_site_are_summed_over_processes(void **state) {
    (void)state;
    static struct ledger_image other;
    image_init(&other, 200);
    uint32_t birth = image_of_one_leak(2);
    image.stacks[birth].opened = 10;
    image.stacks[birth].closed = 9;
    image.stacks[birth].closed_passive = 9;
    image.stacks[birth].lifetimes[4] = 9; // from 4 to 6 ms
    image.stacks[birth].lifetime_max_ms = 5;
    image_stack(&other, 0x5000, 1); // another id, the same stack
    birth = image_stack(&other, 0x1000, 2);
    other.stacks[birth].opened = other.stacks[birth].closed = 4;
    other.stacks[birth].closed_active = 4;
    other.stacks[birth].lifetimes[LEDGER_LIFETIME_BUCKETS - 1] = 4;
    other.stacks[birth].lifetime_max_ms = 2000000;
    // The ledger's last look was at 10 s: slots 0 to 2 are those of the minute before it.
    other.stacks[birth].recent_active[1] = (uint64_t)1 << 32 | 4;
    struct report *report = report_of(&image, &other);
    assert_int_equal(report->site_count, 1);
    const struct report_site *site = report->sites[0];
    assert_int_equal(site->opened, 14);
    assert_int_equal(site->passive, 9);
    assert_int_equal(site->active, 4);
    assert_int_equal(site->recent_active, 4);
    assert_int_equal(site->leaked, 1);
    assert_int_equal(site->lifetime_max_ms, 2000000);
    struct sites_median median;
    assert_true(sites_median(site, &median));
    assert_true(median.from_ms == 4 && median.to_ms == 6);
    report_free(report);
}

static void active_closes_of_more_than_a_minute_ago_are_not_recent(void **state) {
    (void)state;
    image_init(&image, 100);
    image.header.snapshot_ns = 1000ull * 1000000000;
    uint32_t birth = image_stack(&image, 0x1000, 2);
    image.stacks[birth].opened = image.stacks[birth].closed = 7;
    image.stacks[birth].closed_active = 7;
    image.stacks[birth].recent_active[230 % LEDGER_RECENT_SLOTS] = (uint64_t)230 << 32 | 3; // 920 s
    image.stacks[birth].recent_active[240 % LEDGER_RECENT_SLOTS] = (uint64_t)240 << 32 | 4; // 960 s
    struct report *report = report_of(&image, NULL);
    assert_int_equal(report->sites[0]->active, 7);
    assert_int_equal(report->sites[0]->recent_active, 4);
    assert_true(report->sites[0]->recent_per_second > 4.0 / 64 - 0.001);
    assert_true(report->sites[0]->recent_per_second <= 4.0 / 60 + 0.001);
    report_free(report);
}

static void killed_process_is_judged_by_its_own_options(void **state) {
    (void)state;
    image_init(&image, 100);
    image_ignore_eof(image_socket(&image, image_stack(&image, 0x1000, 1)), 1);
    image.records[1].family = AF_UNIX;
    image.records[1].peer.family = image.records[1].local.family = ADDRESS_NONE;
    image_kill(&image);
    struct report *report = report_of(&image, NULL);
    assert_int_equal(report->summary.leaks, 0);
    report_free(report);
    image.header.families = 2; // FAMILIES_ALL: base/options.h
    image.header.grace_ms = 1000;
    report = report_of(&image, NULL);
    assert_int_equal(report->summary.leaks, 1);
    report_free(report);
}

static void killed_child_leaves_inherited_sockets_to_its_parent(void **state) {
    (void)state;
    image_of_one_leak(2);
    image.header.process = 2; // the record's is 1: inherited
    image_kill(&image);
    struct report *report = report_of(&image, NULL);
    assert_int_equal(report->summary.leaks, 0);
    report_free(report);
}

static void socket_leaked_by_parent_and_child_is_the_parents(void **state) {
    (void)state;
    static struct ledger_image child;
    image_of_one_leak(2);
    child = image;
    child.header.pid = 101;
    child.header.parent_pid = 100;
    child.header.process = 2;
    child.header.created_ns += 1000;
    struct report *report = report_of(&child, &image);
    assert_int_equal(report->summary.leaks, 1);
    assert_int_equal(report->classes[0].findings[0]->process->pid, 100);
    report_free(report);
}

// As a daemon does it: its parents have ended, and another process has adopted it since.
static void socket_of_a_running_grandchild_is_told_once(void **state) {
    (void)state;
    static struct ledger_image child, grandchild;
    image_of_one_leak(2);
    memset(image.header.boot_id, 0, sizeof image.header.boot_id); // of any boot
    child = grandchild = image;
    child.header.pid = 101;
    child.header.parent_pid = 100;
    child.header.process = 2;
    child.header.created_ns += 1000;
    grandchild.header.pid = 102;
    grandchild.header.parent_pid = 101;
    grandchild.header.process = 3;
    grandchild.header.created_ns += 2000;
    image_kill(&grandchild);
    const struct report_socket_facts socket = {.inode = 1003,
                                               .snapshot = {.taken_ns = 9000000000,
                                                            .state = STATE_CLOSE_WAIT,
                                                            .state_age_ms = 3000,
                                                            .flags = SNAPSHOT_HAS_TCP_INFO}};
    struct report_process_facts facts = {.pid = 102,
                                         .parent_pid = 1,
                                         .start_time_ticks = grandchild.header.start_time_ticks,
                                         .now_ns = 9000000000,
                                         .sockets = &socket,
                                         .socket_count = 1};
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    assert_int_equal(report_add_ledger_memory(report, &image, sizeof image, "parent"), 0);
    assert_int_equal(report_add_ledger_memory(report, &child, sizeof child, "child"), 0);
    assert_int_equal(report_add_ledger_memory(report, &grandchild, sizeof grandchild, "last"), 0);
    assert_int_equal(report_observe(report, &facts), 0);
    assert_int_equal(report_finish(report, &options), 0);
    assert_int_equal(report->process_count, 3);
    assert_int_equal(report->processes[2]->parent_pid, 1);
    assert_int_equal(report->processes[2]->totals.inherited, 1);
    assert_int_equal(report->summary.leaks, 1);
    assert_int_equal(report->classes[0].findings[0]->process->pid, 100);
    report_free(report);
}

static void exec_joins_a_socket_to_its_birth_in_the_earlier_image(void **state) {
    (void)state;
    static struct ledger_image later;
    image_init(&image, 100);
    uint32_t birth = image_stack(&image, 0x1000, 2), eof = image_stack(&image, 0x2000, 1);
    image_ignore_eof(image_socket(&image, birth), eof);
    image_ignore_eof(image_socket(&image, birth), eof); // closed by exec
    image_kill(&image);
    image_init(&later, 100);
    later.header.created_ns += 5000;
    struct ledger_record *found = image_socket(&later, 0);
    found->provenance = PROVENANCE_FOUND;
    found->birth_call = CALL_UNKNOWN;
    found->birth_ns = 0;
    found->snapshot.state = STATE_CLOSE_WAIT;
    found->snapshot.verdict = VERDICT_FIN_UNREAD;
    struct report *report = report_of(&later, &image);
    assert_int_equal(report->processes[0]->ended, REPORT_EXEC);
    assert_int_equal(report->processes[0]->socket_count, 0);
    assert_int_equal(report->processes[1]->ended, REPORT_EXIT);
    assert_int_equal(report->summary.leaks, 1);
    const struct report_socket *socket = report->classes[0].findings[0]->sockets[0];
    assert_int_equal(report->classes[0].findings[0]->verdict, VERDICT_EOF_IGNORED);
    assert_int_equal(socket->record.birth_call, CALL_ACCEPT4);
    assert_int_equal(socket->birth->frames[0].module_offset, 0x1000);
    assert_int_equal(socket->end_of_stream->frames[0].module_offset, 0x2000);
    report_free(report);
}

static void kernel_facts_win_over_the_ledger(void **state) {
    (void)state;
    const int32_t fds[] = {3, 30};
    image_init(&image, 100);
    uint32_t birth = image_stack(&image, 0x1000, 2);
    image_socket(&image, birth); // inode 1003: open in the ledger, CLOSE_WAIT in the kernel
    image_ignore_eof(image_socket(&image, birth), birth); // 1004: closed in the kernel
    image_kill(&image);
    memset(image.header.boot_id, 0, sizeof image.header.boot_id); // of any boot
    const struct report_socket_facts sockets[] = {
        {.inode = 1003,
         .fds = fds,
         .fd_count = 2,
         .snapshot = {.taken_ns = 9000000000,
                      .state = STATE_CLOSE_WAIT,
                      .state_age_ms = 3000,
                      .last_data_sent_ms = 4000,
                      .flags = SNAPSHOT_HAS_TCP_INFO}},
        {.inode = 5555, // not in the ledger
         .fds = fds,
         .fd_count = 1,
         .family = 2,
         .type = 1,
         .snapshot = {.taken_ns = 9000000000,
                      .state = STATE_CLOSE_WAIT,
                      .state_age_ms = 10,
                      .flags = SNAPSHOT_HAS_TCP_INFO}},
    };
    const struct report_process_facts facts = {.pid = 100,
                                               .start_time_ticks = 77,
                                               .now_ns = 9000000000,
                                               .exe = "/opt/server (deleted)",
                                               .sockets = sockets,
                                               .socket_count = 2};
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    assert_int_equal(report_add_ledger_memory(report, &image, sizeof image, "one"), 0);
    assert_int_equal(report_observe(report, &facts), 0);
    assert_int_equal(report_finish(report, &options), 0);
    assert_int_equal(report->process_count, 1);
    assert_int_equal(report->processes[0]->ended, REPORT_RUNNING);
    assert_int_equal(report->summary.leaks, 1); // the other one is within its grace
    assert_int_equal(report->summary.open, 1);
    const struct report_socket *socket = report->classes[0].findings[0]->sockets[0];
    assert_int_equal(socket->record.inode, 1003);
    assert_int_equal(socket->fd_count, 2);
    assert_int_equal(socket->birth->frames[0].module_offset, 0x1000);
    assert_int_equal(report_socket_open_ms(socket), 7000);
    report_free(report);
}

static void fingerprint_is_the_same_at_another_line_and_not_at_another_place(void **state) {
    (void)state;
    static struct ledger_image other;
    image_init(&other, 200);
    image_of_one_leak(2);
    uint32_t birth = image_stack(&other, 0x3000, 2);
    image_ignore_eof(image_socket(&other, birth), birth);
    struct report *first = report_of(&image, NULL), *again = report_of(&image, NULL);
    struct report *second = report_of(&other, NULL);
    const char *print = first->processes[0]->findings[0].fingerprint;
    assert_int_equal(strlen(print), 16);
    assert_string_equal(print, again->processes[0]->findings[0].fingerprint);
    assert_string_not_equal(print, second->processes[0]->findings[0].fingerprint);
    report_free(first);
    report_free(again);
    report_free(second);
}

static void what_is_no_ledger_is_refused(void **state) {
    (void)state;
    struct report *report = report_new();
    assert_int_equal(report_add_ledger_memory(report, "", 0, "empty"), -EBADMSG);
    memset(&image, 0, sizeof image);
    assert_int_equal(report_add_ledger_memory(report, &image, sizeof image, "zeros"), -EBADMSG);
    image_init(&image, 100);
    image.header.version = 9;
    assert_int_equal(report_add_ledger_memory(report, &image, sizeof image, "newer"), -EBADMSG);
    assert_int_equal(report_add_ledger_file(report, "/nonexistent"), -ENOENT);
    assert_int_equal(report_add_ledger_file(report, "/dev/zero"), -EINVAL);
    assert_int_equal(report->process_count, 0);
    report_free(report);
}

static void cut_ledger_is_marked_incomplete(void **state) {
    (void)state;
    image_of_one_leak(2);
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    size_t len = offsetof(struct ledger_image, frames);
    assert_int_equal(report_add_ledger_memory(report, &image, len, "cut"), 0);
    assert_int_equal(report_finish(report, &options), 0);
    assert_true(report->processes[0]->note_count > 0);
    assert_non_null(strstr(report->processes[0]->notes[0], "incomplete"));
    assert_int_equal(report->summary.leaks, 1); // the socket is still known, without its stacks
    report_free(report);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sockets_of_one_verdict_and_stacks_are_one_finding),
        cmocka_unit_test(process_is_told_by_its_header),
        cmocka_unit_test(dup_counts_once_and_shows_both_descriptors),
        cmocka_unit_test(equal_findings_of_two_processes_are_merged),
        cmocka_unit_test(killed_process_is_judged_by_what_it_was_told),
        cmocka_unit_test(counters_of_a_call_site_are_summed_over_processes),
        cmocka_unit_test(active_closes_of_more_than_a_minute_ago_are_not_recent),
        cmocka_unit_test(killed_process_is_judged_by_its_own_options),
        cmocka_unit_test(killed_child_leaves_inherited_sockets_to_its_parent),
        cmocka_unit_test(socket_leaked_by_parent_and_child_is_the_parents),
        cmocka_unit_test(socket_of_a_running_grandchild_is_told_once),
        cmocka_unit_test(exec_joins_a_socket_to_its_birth_in_the_earlier_image),
        cmocka_unit_test(kernel_facts_win_over_the_ledger),
        cmocka_unit_test(fingerprint_is_the_same_at_another_line_and_not_at_another_place),
        cmocka_unit_test(what_is_no_ledger_is_refused),
        cmocka_unit_test(cut_ledger_is_marked_incomplete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
