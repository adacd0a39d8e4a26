// Small pieces: patterns of suppressions, names of functions, text of any bytes.
#include "demangle.h"
#include "suppress.h"
#include "utf8.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> // wants the others before it

static void glob_matches_the_whole_text(void **state) {
    (void)state;
    assert_true(suppress_glob("abc", "abc"));
    assert_false(suppress_glob("abc", "abcd"));
    assert_false(suppress_glob("abc", "xabc"));
    assert_true(suppress_glob("a*c", "abbbc"));
    assert_true(suppress_glob("*", ""));
    assert_true(suppress_glob("a?c", "abc"));
    assert_false(suppress_glob("a?c", "ac"));
    assert_true(suppress_glob("*b*b*", "abab"));
    assert_false(suppress_glob("*b*b*", "aba"));
    assert_true(suppress_glob("[::1]:*", "[::1]:80")); // no bracket expressions
}

static void glob_is_not_exponential(void **state) {
    (void)state;
    char text[4096], pattern[256] = "";
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < 60; i++)
        strcat(pattern, "*a");
    strcat(pattern, "b");
    assert_false(suppress_glob(pattern, text));
}

static void assert_demangles(const char *name, const char *expected) {
    char *text = demangle(name);
    assert_string_equal(text, expected);
    free(text);
}

static void names_are_as_in_the_source(void **state) {
    (void)state;
    assert_demangles("main", "main");
    assert_demangles("_ZN3net4PoolIiE3getEi", "net::Pool<int>::get(int)");
    assert_demangles("_Znonsense", "_Znonsense");
    assert_demangles("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write");
    assert_demangles("_ZN51_$LT$app..Pool$u20$as$u20$core..ops..drop..Drop$GT$"
                     "4drop17h0123456789abcdefE",
                     "<app::Pool as core::ops::drop::Drop>::drop");
    assert_demangles("_RNvC6_123foo3bar", "_RNvC6_123foo3bar"); // v0: as it is
    assert_demangles("serve.isra.0", "serve");
    assert_demangles("serve.part.0.cold", "serve");
    assert_demangles("_ZN3net3getEi.constprop.0", "net::get(int)");
}

static void text_becomes_valid_utf8(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"\xc3\xa9", "\xc3\xa9"},
        {"\xff", "\xef\xbf\xbd"},
        {"a\xc3", "a\xef\xbf\xbd"},                               // cut
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                 // overlong
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, // surrogate
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = utf8_copy(cases[i][0]);
        assert_string_equal(text, cases[i][1]);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(glob_matches_the_whole_text),
        cmocka_unit_test(glob_is_not_exponential),
        cmocka_unit_test(names_are_as_in_the_source),
        cmocka_unit_test(text_becomes_valid_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
