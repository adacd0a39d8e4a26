// report/text: the report, line by line.
#include "report/text.h"
#include "unit.h"
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static char written[65536];
static size_t written_bytes;

static void write_line(void *context, const char *line, size_t len_bytes) {
    (void)context;
    // Each line is whole: one newline, at its end.
    assert_true(len_bytes > 0 && line[len_bytes - 1] == '\n');
    assert_null(memchr(line, '\n', len_bytes - 1));
    assert_true(written_bytes + len_bytes < sizeof written);
    memcpy(written + written_bytes, line, len_bytes);
    written_bytes += len_bytes;
    written[written_bytes] = '\0';
}

static struct text_sink sink_of(uint32_t pid) {
    written_bytes = 0;
    written[0] = '\0';
    return (struct text_sink){.write_line = write_line, .pid = pid};
}

static void assert_printable_ascii(void) {
    for (size_t i = 0; i < written_bytes; i++)
        assert_true(written[i] == '\n' || (written[i] >= ' ' && written[i] <= '~'));
}

// --- addresses and ages -------------------------------------------------------------------------

static const char *address_text(const char *ip, uint16_t port, uint32_t scope) {
    static char memory[128];
    struct text_buffer out = text_buffer(memory, sizeof memory);
    struct ledger_address address = {.port = port, .scope_id = scope};
    if (inet_pton(AF_INET, ip, address.ip) == 1)
        address.family = ADDRESS_INET;
    else if (inet_pton(AF_INET6, ip, address.ip) == 1)
        address.family = ADDRESS_INET6;
    text_address(&out, &address);
    return memory;
}

static void ipv4_addresses_are_dotted(void **state) {
    (void)state;
    assert_string_equal(address_text("127.0.0.1", 80, 0), "127.0.0.1:80");
    assert_string_equal(address_text("255.255.255.255", 65535, 0), "255.255.255.255:65535");
    assert_string_equal(address_text("0.0.0.0", 0, 0), "0.0.0.0:0");
}

static void ipv6_addresses_are_those_of_rfc_5952(void **state) {
    (void)state;
    static const struct {
        const char *any, *canonical;
    } examples[] = {
        // sections 1 and 4 of the RFC
        {"2001:db8:0:0:1:0:0:1", "[2001:db8::1:0:0:1]:80"},    // the first of two equal runs
        {"2001:0db8::0001", "[2001:db8::1]:80"},               // 4.1: leading zeros
        {"2001:db8:0:0:0:0:2:1", "[2001:db8::2:1]:80"},        // 4.2.1: as short as possible
        {"2001:db8:0:1:1:1:1:1", "[2001:db8:0:1:1:1:1:1]:80"}, // 4.2.2: one group is not shortened
        {"2001:0:0:1:0:0:0:1", "[2001:0:0:1::1]:80"},          // 4.2.3: the longest run
        {"2001:DB8::ABCD", "[2001:db8::abcd]:80"},             // 4.3: lower case
        {"::ffff:192.0.2.1", "[::ffff:192.0.2.1]:80"},         // 5: mapped IPv4
        // ends
        {"::", "[::]:80"},
        {"::1", "[::1]:80"},
        {"1::", "[1::]:80"},
        {"fe80::", "[fe80::]:80"},
        {"0:1:2:3:4:5:6:7", "[0:1:2:3:4:5:6:7]:80"},
        {"1:2:3:4:5:6:7:0", "[1:2:3:4:5:6:7:0]:80"},
        {"1:2:3:4:5:6:0:0", "[1:2:3:4:5:6::]:80"},
        {"0:0:3:4:5:6:7:8", "[::3:4:5:6:7:8]:80"},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        assert_string_equal(address_text(examples[i].any, 80, 0), examples[i].canonical);
}

// The judge is inet_ntop, which follows the RFC but for ::a.b.c.d (deprecated "compatible" form).
static void ipv6_addresses_are_written_as_libc_writes_them(void **state) {
    (void)state;
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        struct ledger_address address = {.family = ADDRESS_INET6, .port = 1};
        for (int k = 0; k < 16; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            address.ip[k] = random % 3 ? 0 : (uint8_t)(random >> 32);
        }
        static const uint8_t zeros[12];
        if (memcmp(address.ip, zeros, 12) == 0)
            continue;
        char ntop[64], expected[80] = "[", memory[128];
        inet_ntop(AF_INET6, address.ip, ntop, sizeof ntop);
        strcat(strcat(expected, ntop), "]:1");
        struct text_buffer out = text_buffer(memory, sizeof memory);
        text_address(&out, &address);
        assert_string_equal(memory, expected);
    }
}

static void a_scope_is_shown_and_an_unknown_address_is_a_question_mark(void **state) {
    (void)state;
    assert_string_equal(address_text("fe80::1", 443, 2), "[fe80::1%2]:443");
    assert_string_equal(address_text("", 0, 0), "?");
}

static void ages_grow_coarser_with_time(void **state) {
    (void)state;
    static const struct {
        uint64_t ms;
        const char *text;
    } ages[] = {
        {0, "0 ms"},        {99, "99 ms"},        {999, "999 ms"},        {1000, "1.0 s"},
        {12449, "12.4 s"},  {599999, "599.9 s"},  {600000, "10 min"},     {35999999, "599 min"},
        {36000000, "10 h"}, {360000000, "100 h"}, {UINT32_MAX, "1193 h"},
    };
    for (size_t i = 0; i < sizeof ages / sizeof *ages; i++) {
        char memory[64];
        struct text_buffer out = text_buffer(memory, sizeof memory);
        text_age(&out, ages[i].ms);
        assert_string_equal(memory, ages[i].text);
    }
}

// --- the report of issue 2 ----------------------------------------------------------------------

static bool name_frames(void *context, uint32_t stack, uint32_t index, struct text_frame *out) {
    const struct text_frame *frames = context; // ends with a frame of no module
    for (uint32_t i = 0; i <= index; i++)
        if (!frames[stack * 4 + i].module)
            return false;
    *out = frames[stack * 4 + index];
    return true;
}

static const struct text_frame stacks[3][4] = {
    {{0}},
    {{.function = "accept_client",
      .function_offset = 0x41,
      .module = "/opt/bin/server",
      .module_offset = 0x1a2b},
     {.function = "event_loop",
      .function_offset = 0x9f,
      .module = "/opt/bin/server",
      .module_offset = 0x1f02},
     {.function = "__libc_start_main", .module = "/lib/libc.so.6", .hidden = true}},
    {{.function = "handle_request", .module = "server", .file = "server.c", .line = 88},
     {.module = "server", .module_offset = 0x77}},
};
static const struct text_namer namer = {name_frames, (void *)stacks};

static struct ledger_record leaked(void) {
    struct ledger_record record = {
        .inode = 99,
        .birth_ns = 1000000000,
        .eof_ns = 1500000000,
        .birth_stack = 1,
        .eof_stack = 2,
        .birth_call = CALL_ACCEPT4,
        .eof_call = CALL_RECV,
        .family = AF_INET,
        .type = SOCK_STREAM,
        .fd_count = 1,
        .first_fd = 7,
        .local = {.family = ADDRESS_INET, .port = 8080, .ip = {127, 0, 0, 1}},
        .peer = {.family = ADDRESS_INET, .port = 54321, .ip = {127, 0, 0, 1}},
        .snapshot = {.taken_ns = 13400000000,
                     .state_age_ms = 11900,
                     .state = STATE_CLOSE_WAIT,
                     .verdict = VERDICT_EOF_IGNORED,
                     .flags = SNAPSHOT_TAKEN | SNAPSHOT_HAS_QUEUES | SNAPSHOT_HAS_TCP_INFO},
    };
    return record;
}

static void the_report_reads_as_the_issue_shows_it(void **state) {
    (void)state;
    struct text_sink sink = sink_of(4242);
    struct ledger_record record = leaked();
    struct text_head head = {
        .close_wait = 3, .findings = 2, .when = "at exit of", .program = "./server"};
    text_headline(&sink, &head);
    text_finding(&sink, VERDICT_EOF_IGNORED, 2, &record, &namer);
    text_socket(&sink, &record, NULL);
    text_more(&sink, 1);
    struct text_totals totals = {.close_wait = 3, .open = 1};
    struct ledger_counters counters = {.closed = 128};
    text_summary(&sink, &totals, &counters);
    assert_string_equal(
        written,
        "==4242== sockleak: 3 sockets left in CLOSE_WAIT (2 findings) at exit of ./server\n"
        "==4242==\n"
        "==4242== 2 sockets, eof-ignored: the peer closed, the program read end of stream, and "
        "never closed\n"
        "==4242==   opened by accept4\n"
        "==4242==     #0 accept_client+0x41               server (+0x1a2b)\n"
        "==4242==     #1 event_loop+0x9f                  server (+0x1f02)\n"
        "==4242==   end of stream read by recv\n"
        "==4242==     #0 handle_request                   server.c:88\n"
        "==4242==     #1 ??                               server (+0x77)\n"
        "==4242==   fd 7   127.0.0.1:8080 <- 127.0.0.1:54321   open 12.4 s   FIN 11.9 s ago   "
        "0 bytes unread\n"
        "==4242==   ... and 1 more\n"
        "==4242== summary: 3 leaked (3 close-wait, 0 dead), 1 open, 128 closed properly; "
        "0 not tracked\n");
}

static void one_of_a_thing_is_singular(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct text_head head = {.close_wait = 1, .findings = 1, .when = "at exit of", .program = "a"};
    text_headline(&sink, &head);
    assert_non_null(
        strstr(written, "sockleak: 1 socket left in CLOSE_WAIT (1 finding) at exit of a\n"));
    sink = sink_of(1);
    struct text_head dead = {
        .close_wait = 2, .dead = 1, .findings = 3, .when = "at", .program = "a"};
    text_headline(&sink, &dead);
    assert_non_null(
        strstr(written, ": 2 sockets left in CLOSE_WAIT and 1 socket dead but not closed (3 "));
    sink = sink_of(1);
    struct text_head none = {.when = "at exit of", .program = "a"};
    text_headline(&sink, &none);
    assert_non_null(strstr(written, "sockleak: no socket leaked at exit of a\n"));
}

// Who was not there at its birth need not have been there when it was read, either.
static void no_program_is_accused_of_what_was_not_to_be_seen(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record found = {.provenance = PROVENANCE_FOUND, .birth_call = CALL_UNKNOWN};
    text_finding(&sink, VERDICT_FIN_UNREAD, 1, &found, NULL);
    assert_non_null(
        strstr(written, "fin-unread: the peer closed, and no read of end of stream was seen\n"));
    sink = sink_of(1);
    found.snapshot.state = STATE_CLOSE;
    text_finding(&sink, VERDICT_RESET_UNCLOSED, 1, &found, NULL);
    assert_non_null(strstr(written, "reset-unclosed: the connection is dead (reset, or ended by "
                                    "both sides: neither was seen), "));
    sink = sink_of(1);
    found.snapshot.flags = SNAPSHOT_ERROR_PENDING;
    text_finding(&sink, VERDICT_RESET_UNCLOSED, 1, &found, NULL);
    assert_non_null(strstr(written, "reset-unclosed: the connection was reset, "));
    sink = sink_of(1);
    text_finding(&sink, VERDICT_EOF_IGNORED, 1, &found, NULL);
    assert_non_null(strstr(written, "the program read end of stream, and never closed\n"));
}

static void nothing_more_is_no_line(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    text_more(&sink, 0);
    assert_string_equal(written, "");
}

static void an_unseen_birth_and_a_lost_stack_are_said(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    record.birth_call = CALL_UNKNOWN;
    record.birth_stack = record.eof_stack = LEDGER_NO_STACK;
    text_finding(&sink, VERDICT_EOF_IGNORED, 1, &record, &namer);
    assert_non_null(strstr(written, "  origin unknown"));
    assert_non_null(strstr(written, "  end of stream read by recv (stack not recorded)\n"));
    assert_null(strstr(written, "#0"));
}

static void an_error_is_named_with_who_got_it(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    record.eof_ns = 0;
    record.error = ECONNRESET;
    record.error_call = CALL_READ;
    record.error_stack = 1;
    text_finding(&sink, VERDICT_RESET_UNCLOSED, 1, &record, &namer);
    assert_non_null(strstr(written, "1 socket, reset-unclosed: "));
    assert_non_null(strstr(written, "  ECONNRESET returned by read\n==1==     #0 accept_client"));
    assert_null(strstr(written, "end of stream read"));
}

static bool name_generated(void *context, uint32_t stack, uint32_t index, struct text_frame *out) {
    (void)context, (void)stack;
    out->module_offset = 0x7f00deadbeef;
    return index == 0;
}

static void a_frame_in_no_file_shows_its_address(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    record.eof_ns = 0;
    struct text_namer generated = {name_generated, NULL};
    text_finding(&sink, VERDICT_FIN_UNREAD, 1, &record, &generated);
    assert_non_null(strstr(written, "#0 ??"));
    assert_non_null(strstr(written, " 0x7f00deadbeef (in no file"));
}

static void sockets_show_direction_descriptors_and_state(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    int32_t fds[] = {7, 9, 12, 100, 101, 102};
    record.birth_call = CALL_SOCKET;
    record.fd_count = 6;
    text_socket(&sink, &record, fds);
    assert_non_null(strstr(written, "  fd 7,9,12,100 (and 2 more) 127.0.0.1:8080 -> 127.0.0.1:"));
    sink = sink_of(1);
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "  fd 7 (and 5 more) 127.0.0.1:8080 -> "));
    record.birth_call = CALL_UNKNOWN; // then nobody knows who connected
    sink = sink_of(1);
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "  fd 7 (and 5 more) 127.0.0.1:8080 - 127.0.0.1:"));
    record.birth_call = CALL_SOCKET;
    sink = sink_of(1);
    record.snapshot.verdict = VERDICT_OPEN;
    record.snapshot.state = STATE_ESTABLISHED;
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "   ESTABLISHED 11.9 s   0 bytes unread\n"));
    sink = sink_of(1);
    record.snapshot.verdict = VERDICT_RESET_UNCLOSED;
    record.snapshot.flags |= SNAPSHOT_AGE_IS_BOUND;
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "   dead for at most 11.9 s"));
    sink = sink_of(1);
    record.snapshot.flags &= (uint16_t)~SNAPSHOT_AGE_IS_BOUND;
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "   dead for 11.9 s"));
    sink = sink_of(1);
    record.error_ns = record.snapshot.taken_ns;
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "   dead for at least 11.9 s"));
}

// Where this side has sent data since, the age that the kernel tells is that of the last ACK.
static void an_age_that_is_a_bound_says_so(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    record.fin_ns = record.snapshot.taken_ns - 11900000000u;
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "   FIN 11.9 s ago"));
    sink = sink_of(1);
    record.flags |= RECORD_FIN_IS_BOUND;
    text_socket(&sink, &record, NULL);
    assert_non_null(strstr(written, "   FIN at least 11.9 s ago"));
}

static void what_is_not_known_is_left_out(void **state) {
    (void)state;
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    record.birth_ns = 0;
    record.peer = (struct ledger_address){0};
    record.snapshot.flags = SNAPSHOT_TAKEN;
    text_socket(&sink, &record, NULL);
    assert_string_equal(written, "==1==   fd 7   127.0.0.1:8080 <- ?   FIN at least 11.9 s ago\n");
}

// --- foreign text -------------------------------------------------------------------------------

#define HOSTILE "\x1b]0;owned\a\n==1== forged\r\x9b\xe2\x80\xae"

static void foreign_text_cannot_inject_escapes_or_lines(void **state) {
    (void)state;
    struct text_frame frames[16] = {{0}};
    frames[4] =
        (struct text_frame){.function = HOSTILE, .module = "/tmp/" HOSTILE, .module_offset = 1};
    frames[5] =
        (struct text_frame){.function = HOSTILE, .module = HOSTILE, .file = HOSTILE, .line = 3};
    struct text_namer hostile = {name_frames, frames};
    struct text_sink sink = sink_of(1);
    struct ledger_record record = leaked();
    record.eof_ns = 0;
    struct text_head head = {.close_wait = 1, .when = "at exit of", .program = HOSTILE};
    text_headline(&sink, &head);
    text_finding(&sink, VERDICT_FIN_UNREAD, 1, &record, &hostile);
    text_note(&sink, HOSTILE);
    assert_printable_ascii();
    unsigned lines = 0;
    for (size_t i = 0; i < written_bytes; i++)
        lines += written[i] == '\n';
    assert_int_equal(lines, 2 + 2 + 2 + 1);
}

static void a_name_of_any_length_is_one_line(void **state) {
    (void)state;
    static char long_name[5000];
    memset(long_name, 'n', sizeof long_name - 1);
    struct text_frame frames[8] = {{0}};
    frames[4] = (struct text_frame){.function = long_name, .module = long_name};
    struct text_namer tedious = {name_frames, frames};
    struct text_sink sink = sink_of(UINT32_MAX);
    struct ledger_record record = leaked();
    record.eof_ns = 0;
    struct text_head head = {.close_wait = 1, .when = "at exit of", .program = long_name};
    text_headline(&sink, &head);
    text_finding(&sink, VERDICT_FIN_UNREAD, 1, &record, &tedious);
    text_note(&sink, long_name);
    assert_printable_ascii();
}

static void a_hostile_record_is_shown_without_harm(void **state) {
    (void)state;
    struct ledger_record record;
    for (int byte = 0; byte < 256; byte += 51) {
        memset(&record, byte, sizeof record);
        struct text_sink sink = sink_of(1);
        text_socket(&sink, &record, NULL);
        record.birth_stack = record.eof_stack = record.error_stack = record.shutdown_stack = 0;
        text_finding(&sink, (enum verdict)byte, UINT64_MAX, &record, &namer);
        assert_printable_ascii();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ipv4_addresses_are_dotted),
        cmocka_unit_test(ipv6_addresses_are_those_of_rfc_5952),
        cmocka_unit_test(ipv6_addresses_are_written_as_libc_writes_them),
        cmocka_unit_test(a_scope_is_shown_and_an_unknown_address_is_a_question_mark),
        cmocka_unit_test(ages_grow_coarser_with_time),
        cmocka_unit_test(the_report_reads_as_the_issue_shows_it),
        cmocka_unit_test(one_of_a_thing_is_singular),
        cmocka_unit_test(no_program_is_accused_of_what_was_not_to_be_seen),
        cmocka_unit_test(nothing_more_is_no_line),
        cmocka_unit_test(an_unseen_birth_and_a_lost_stack_are_said),
        cmocka_unit_test(an_error_is_named_with_who_got_it),
        cmocka_unit_test(a_frame_in_no_file_shows_its_address),
        cmocka_unit_test(sockets_show_direction_descriptors_and_state),
        cmocka_unit_test(an_age_that_is_a_bound_says_so),
        cmocka_unit_test(what_is_not_known_is_left_out),
        cmocka_unit_test(foreign_text_cannot_inject_escapes_or_lines),
        cmocka_unit_test(a_name_of_any_length_is_one_line),
        cmocka_unit_test(a_hostile_record_is_shown_without_harm),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
