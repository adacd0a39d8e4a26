// base/options: SOCKLEAK_OPTIONS. Ranges and defaults are those of libsockleak(7).
#include "base/options.h"
#include "unit.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

static void assert_contains(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("'%s' is not in '%s'", part, text);
}

static unsigned lines(const char *text) {
    unsigned count = 0;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

static void without_text_the_defaults_are_in_force(void **state) {
    (void)state;
    const char *const none[] = {NULL, "", ":", ":::"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        memset(&options, 0x55, sizeof options);
        options_parse(none[i]);
        assert_int_equal(options.exitcode, 0);
        assert_int_equal(options.exit_grace_ms, 100);
        assert_int_equal(options.grace_ms, 1000);
        assert_int_equal(options.families, FAMILIES_INET);
        assert_int_equal(options.stack_depth, 32);
        assert_int_equal(options.max_sockets, 10);
        assert_int_equal(options.signal, SIGUSR1);
        assert_int_equal(options.show, SHOW_LEAKS);
        assert_int_equal(options.verbosity, 0);
        assert_int_equal(options.help, 0);
        assert_string_equal(options.log_path, "");
        assert_string_equal(options.ledger_dir, "");
        assert_string_equal(options.problems, "");
    }
}

static void each_kind_of_option_is_read(void **state) {
    (void)state;
    options_parse("exitcode=23:families=all:log_path=/tmp/x.%p:show=all:stack_depth=128");
    assert_int_equal(options.exitcode, 23);
    assert_int_equal(options.families, FAMILIES_ALL);
    assert_string_equal(options.log_path, "/tmp/x.%p");
    assert_int_equal(options.show, SHOW_ALL);
    assert_int_equal(options.stack_depth, 128);
    assert_string_equal(options.problems, "");
}

static void the_last_of_two_values_counts(void **state) {
    (void)state;
    options_parse("verbosity=1:verbosity=2");
    assert_int_equal(options.verbosity, 2);
}

static void signals_are_named_with_and_without_sig(void **state) {
    (void)state;
    options_parse("signal=SIGUSR2");
    assert_int_equal(options.signal, SIGUSR2);
    options_parse("signal=WINCH");
    assert_int_equal(options.signal, SIGWINCH);
    options_parse("signal=none");
    assert_int_equal(options.signal, 0);
    assert_string_equal(options.problems, "");
}

static void signals_that_end_or_crash_a_process_are_refused(void **state) {
    (void)state;
    const char *const bad[] = {"KILL", "STOP", "SEGV", "SIGTERM", "SIG", "10", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[64];
        snprintf(text, sizeof text, "signal=%s", bad[i]);
        options_parse(text);
        assert_int_equal(options.signal, SIGUSR1);
        assert_int_equal(lines(options.problems), 1);
    }
}

static void both_ends_of_a_range_are_in_it(void **state) {
    (void)state;
    options_parse("stack_depth=1:exitcode=255:grace_ms=0:exit_grace_ms=3600000:max_sockets=0");
    assert_string_equal(options.problems, "");
    assert_int_equal(options.stack_depth, 1);
    assert_int_equal(options.exitcode, 255);
    assert_int_equal(options.grace_ms, 0);
    assert_int_equal(options.exit_grace_ms, 3600000);
    assert_int_equal(options.max_sockets, 0);
}

static void a_number_out_of_range_leaves_the_default(void **state) {
    (void)state;
    options_parse("stack_depth=0:exitcode=256:grace_ms=3600001:verbosity=-1:max_sockets=1e3");
    assert_int_equal(options.stack_depth, 32);
    assert_int_equal(options.exitcode, 0);
    assert_int_equal(options.grace_ms, 1000);
    assert_int_equal(options.verbosity, 0);
    assert_int_equal(options.max_sockets, 10);
    assert_int_equal(lines(options.problems), 5);
}

static void a_bad_value_behind_a_good_one_is_the_default(void **state) {
    (void)state;
    options_parse("exitcode=5:log_path=a:families=unix:exitcode=abc:log_path=:families=ipx");
    assert_int_equal(options.exitcode, 0);
    assert_string_equal(options.log_path, "");
    assert_int_equal(options.families, FAMILIES_INET);
    assert_contains(options.problems, "exitcode='abc' is not 0 to 255: using the default, 0\n");
    assert_contains(options.problems, "log_path='' is empty: using the default, none\n");
}

static void a_problem_names_value_range_and_default(void **state) {
    (void)state;
    options_parse("stack_depth=129");
    assert_contains(options.problems, "stack_depth='129'");
    assert_contains(options.problems, "1 to 128 frames");
    assert_contains(options.problems, "default, 32");
    options_parse("families=ipx");
    assert_contains(options.problems, "families='ipx'");
    assert_contains(options.problems, "inet|unix|all");
    assert_contains(options.problems, "default, inet");
    options_parse("grace_ms=soon");
    assert_contains(options.problems, "0 to 3600000 ms");
    assert_contains(options.problems, "default, 1000");
}

static void an_unknown_name_is_named_and_the_rest_is_read(void **state) {
    (void)state;
    options_parse("stackdepth=3:exitcode=7:stack_dept=1:stack_depthh=1");
    assert_contains(options.problems, "'stackdepth'");
    assert_contains(options.problems, "'stack_dept'");
    assert_contains(options.problems, "'stack_depthh'");
    assert_contains(options.problems, "help=1");
    assert_int_equal(lines(options.problems), 3);
    assert_int_equal(options.exitcode, 7);
    assert_int_equal(options.stack_depth, 32);
}

static void an_entry_without_a_value_is_a_problem(void **state) {
    (void)state;
    options_parse("help:log_path=:verbosity");
    assert_int_equal(options.help, 0);
    assert_int_equal(lines(options.problems), 3);
}

static void a_quoted_value_may_hold_colons(void **state) {
    (void)state;
    options_parse("log_path='/tmp/a:b':exitcode=3");
    assert_string_equal(options.log_path, "/tmp/a:b");
    assert_int_equal(options.exitcode, 3);
    options_parse("exitcode='4':log_path=\"it's:here\"");
    assert_int_equal(options.exitcode, 4);
    assert_string_equal(options.log_path, "it's:here");
    assert_string_equal(options.problems, "");
}

static void text_behind_a_closing_quote_is_a_problem(void **state) {
    (void)state;
    options_parse("stack_depth='5'0:exitcode=3");
    assert_int_equal(options.stack_depth, 32);
    assert_int_equal(options.exitcode, 3);
    assert_int_equal(lines(options.problems), 1);
    options_parse("log_path='/tmp/a:exitcode=3");
    assert_string_equal(options.log_path, "");
    assert_int_equal(options.exitcode, 3);
    assert_contains(options.problems, "log_path=''/tmp/a' is not in quotes as a whole: ");
}

static void a_text_too_long_is_refused_not_cut(void **state) {
    (void)state;
    char text[16 + OPTION_TEXT_BYTES + 1] = "log_path=";
    size_t name = strlen(text);
    memset(text + name, 'a', OPTION_TEXT_BYTES - 1);
    options_parse(text);
    assert_int_equal(strlen(options.log_path), OPTION_TEXT_BYTES - 1);
    assert_string_equal(options.problems, "");
    text[name + OPTION_TEXT_BYTES - 1] = 'a';
    options_parse(text);
    assert_string_equal(options.log_path, "");
    assert_int_equal(lines(options.problems), 1);
    assert_contains(options.problems, "...' is longer than 255 bytes: ");
}

static void a_problem_cannot_carry_an_escape_or_a_newline(void **state) {
    (void)state;
    options_parse("\x1b[2J\n=1:exitcode=\x1b]0;x\a\r\n:families=\xc3\xa9");
    assert_int_equal(lines(options.problems), 3);
    for (const char *at = options.problems; *at; at++)
        assert_true(*at == '\n' || (*at >= ' ' && *at <= '~'));
}

static void many_problems_are_cut_at_the_buffers_end(void **state) {
    (void)state;
    static char text[20000];
    for (size_t i = 0; i + 4 < sizeof text; i += 4)
        memcpy(text + i, "xx=:", 5);
    options_parse(text);
    assert_true(strlen(options.problems) < sizeof options.problems);
    assert_contains(options.problems, "'xx'");
    // Of whole lines, each of which ends in one of two ways.
    const char *line = options.problems;
    for (const char *end; (end = strchr(line, '\n')); line = end + 1)
        assert_true(memcmp(end - 2, end[1] ? "m)" : "it", 2) == 0);
    assert_string_equal(line, "");
    assert_contains(options.problems, "\nSOCKLEAK_OPTIONS: there are more mistakes in it\n");
}

static void help_names_every_option_with_range_and_default(void **state) {
    (void)state;
    static const char *const expected[][3] = {
        {"exit_grace_ms", "0 to 3600000 ms", "default 100"},
        {"exhaustion_interval", "0 to 86400 s", "default 60"},
        {"exitcode", "0 to 255", "default 0"},
        {"families", "inet|unix|all", "default inet"},
        {"grace_ms", "0 to 3600000 ms", "default 1000"},
        {"help", "0 to 1", "default 0"},
        {"leak_after", "0 to 86400 s", "default 0"},
        {"ledger_dir", "DIRECTORY", "default none"},
        {"log_path", "FILE", "default none"},
        {"max_close_wait", "0 to 1000000", "default 0"},
        {"max_open", "0 to 1000000", "default 0"},
        {"max_sockets", "0 to 1000000", "default 10"},
        {"show", "leaks|all", "default leaks"},
        {"signal", "USR1|USR2", "default USR1"},
        {"stack_depth", "1 to 128 frames", "default 32"},
        {"verbosity", "0 to 2", "default 0"},
    };
    char memory[512];
    int count = 0;
    for (;; count++) {
        struct text_buffer out = text_buffer(memory, sizeof memory);
        if (!options_help(count, &out))
            break;
        assert_false(out.truncated);
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            size_t name = strlen(expected[i][0]);
            if (strncmp(out.text, expected[i][0], name) == 0 && out.text[name] == ' ')
                for (int part = 0; part < 3; part++)
                    assert_contains(out.text, expected[i][part]);
        }
    }
    assert_int_equal(count, sizeof expected / sizeof *expected);
    struct text_buffer out = text_buffer(memory, sizeof memory);
    assert_false(options_help(-1, &out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_text_the_defaults_are_in_force),
        cmocka_unit_test(each_kind_of_option_is_read),
        cmocka_unit_test(the_last_of_two_values_counts),
        cmocka_unit_test(signals_are_named_with_and_without_sig),
        cmocka_unit_test(signals_that_end_or_crash_a_process_are_refused),
        cmocka_unit_test(both_ends_of_a_range_are_in_it),
        cmocka_unit_test(a_number_out_of_range_leaves_the_default),
        cmocka_unit_test(a_bad_value_behind_a_good_one_is_the_default),
        cmocka_unit_test(a_problem_names_value_range_and_default),
        cmocka_unit_test(an_unknown_name_is_named_and_the_rest_is_read),
        cmocka_unit_test(an_entry_without_a_value_is_a_problem),
        cmocka_unit_test(a_quoted_value_may_hold_colons),
        cmocka_unit_test(text_behind_a_closing_quote_is_a_problem),
        cmocka_unit_test(a_text_too_long_is_refused_not_cut),
        cmocka_unit_test(a_problem_cannot_carry_an_escape_or_a_newline),
        cmocka_unit_test(many_problems_are_cut_at_the_buffers_end),
        cmocka_unit_test(help_names_every_option_with_range_and_default),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
