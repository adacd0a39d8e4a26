// base/format: text without stdio.
#include "base/format.h"
#include "unit.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static struct text_buffer empty(char *memory, size_t size_bytes) {
    memset(memory, 'X', size_bytes);
    return text_buffer(memory, size_bytes);
}

static void a_new_buffer_is_an_empty_string(void **state) {
    (void)state;
    char memory[8];
    struct text_buffer out = empty(memory, sizeof memory);
    assert_string_equal(out.text, "");
    assert_int_equal(out.len_bytes, 0);
    assert_false(out.truncated);
}

static void what_fits_exactly_is_not_truncated(void **state) {
    (void)state;
    char memory[6];
    struct text_buffer out = empty(memory, sizeof memory);
    text_string(&out, "12345");
    assert_string_equal(out.text, "12345");
    assert_false(out.truncated);
}

static void what_does_not_fit_is_cut_and_said(void **state) {
    (void)state;
    char memory[7] = {0};
    struct text_buffer out = empty(memory, 6);
    memory[6] = '!'; // behind the buffer
    text_string(&out, "123456789");
    assert_string_equal(out.text, "12345");
    assert_int_equal(out.len_bytes, 5);
    assert_true(out.truncated);
    text_char(&out, 'a');
    text_decimal(&out, 7);
    assert_string_equal(out.text, "12345");
    assert_int_equal(memory[6], '!');
}

static void a_buffer_of_one_byte_holds_nothing(void **state) {
    (void)state;
    char memory[1];
    struct text_buffer out = empty(memory, sizeof memory);
    text_string(&out, "");
    assert_false(out.truncated);
    text_char(&out, 'a');
    assert_true(out.truncated);
    assert_string_equal(out.text, "");
}

// The judge is the C library.
static void numbers_are_written_as_printf_writes_them(void **state) {
    (void)state;
    static const uint64_t numbers[] = {
        0, 1, 9, 10, 15, 16, 255, 4095, INT64_MAX, UINT32_MAX, 1ull << 63, UINT64_MAX, 1000000007};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char expected[128], memory[128];
        struct text_buffer out = empty(memory, sizeof memory);
        text_decimal(&out, numbers[i]);
        text_char(&out, ' ');
        text_signed(&out, (int64_t)numbers[i]);
        text_char(&out, ' ');
        text_hex(&out, numbers[i]);
        snprintf(expected, sizeof expected, "%" PRIu64 " %" PRId64 " 0x%" PRIx64, numbers[i],
                 (int64_t)numbers[i], numbers[i]);
        assert_string_equal(out.text, expected);
    }
}

static void foreign_text_keeps_printable_ascii_only(void **state) {
    (void)state;
    char memory[600], foreign[256];
    for (int c = 1; c < 256; c++)
        foreign[c - 1] = (char)c;
    foreign[255] = '\0';
    struct text_buffer out = empty(memory, sizeof memory);
    text_foreign(&out, foreign);
    assert_int_equal(out.len_bytes, 255);
    for (int c = 1; c < 256; c++)
        assert_int_equal(out.text[c - 1], c >= 0x20 && c < 0x7f ? c : '?');
}

static void pad_reaches_its_column_or_puts_one_blank(void **state) {
    (void)state;
    char memory[16];
    struct text_buffer out = empty(memory, sizeof memory);
    text_string(&out, "ab");
    text_pad(&out, 5);
    assert_string_equal(out.text, "ab   ");
    text_pad(&out, 3);
    assert_string_equal(out.text, "ab    ");
    text_pad(&out, 1000); // beyond the buffer: comes to an end
    assert_int_equal(out.len_bytes, 15);
    assert_true(out.truncated);
}

static bool parses(const char *text, uint64_t max, uint64_t *out) {
    return text_parse(text, text + strlen(text), max, out);
}

static void parse_takes_decimal_numbers_up_to_the_maximum(void **state) {
    (void)state;
    uint64_t number = 99;
    assert_true(parses("0", 0, &number));
    assert_int_equal(number, 0);
    assert_true(parses("0042", 42, &number));
    assert_int_equal(number, 42);
    assert_true(parses("18446744073709551615", UINT64_MAX, &number));
    assert_true(number == UINT64_MAX);
    assert_false(parses("43", 42, &number));
}

static void parse_refuses_everything_else(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1a",
                                      "0x1",
                                      "1.0",
                                      "\xb1",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    uint64_t number;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(parses(bad[i], UINT64_MAX, &number));
}

static void parse_stops_at_the_end_it_is_given(void **state) {
    (void)state;
    uint64_t number = 0;
    const char *text = "1234";
    assert_true(text_parse(text, text + 2, 100, &number));
    assert_int_equal(number, 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_buffer_is_an_empty_string),
        cmocka_unit_test(what_fits_exactly_is_not_truncated),
        cmocka_unit_test(what_does_not_fit_is_cut_and_said),
        cmocka_unit_test(a_buffer_of_one_byte_holds_nothing),
        cmocka_unit_test(numbers_are_written_as_printf_writes_them),
        cmocka_unit_test(foreign_text_keeps_printable_ascii_only),
        cmocka_unit_test(pad_reaches_its_column_or_puts_one_blank),
        cmocka_unit_test(parse_takes_decimal_numbers_up_to_the_maximum),
        cmocka_unit_test(parse_refuses_everything_else),
        cmocka_unit_test(parse_stops_at_the_end_it_is_given),
    };
    return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
