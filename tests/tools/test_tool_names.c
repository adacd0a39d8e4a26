// Small pieces: patterns of suppressions, names of functions, text of any bytes.
#include "demangle.h"
#include "suppress.h"
#include "utf8.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

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
    // v0: the examples of its specification, RFC 2603.
    assert_demangles("_RNvC6_123foo3bar", "123foo::bar");
    assert_demangles("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar");
    assert_demangles("_RNvMNtCs6GmmlP4bgsG_1r4poolINtB2_"
                     "4PoolNtNtNtCsjrHSEGnQ3l9_3std3net3tcp9TcpStreamE4keepB4_",
                     "<r::pool::Pool<std::net::tcp::TcpStream>>::keep"); // of rustc
    assert_demangles("_RNCNvC7mycrate3foo0", "mycrate::foo::{closure#0}");
    assert_demangles("_RNvC7mycrate3foo.llvm.9D1C9369", "mycrate::foo");
    assert_demangles("_Rnonsense", "_Rnonsense");
    assert_demangles("serve.isra.0", "serve");
    assert_demangles("serve.part.0.cold", "serve");
    assert_demangles("_ZN3net3getEi.constprop.0", "net::get(int)");
}

// A<int, int>, then A<that, that>, and so on: each step doubles it.
static void a_name_that_unfolds_to_gigabytes_stays_as_it_is(void **state) {
    (void)state;
    static const char bomb[] =
        "_Z1f1AIiiES_IS0_S0_ES_IS1_S1_ES_IS2_S2_ES_IS3_S3_ES_IS4_S4_ES_IS5_S5_ES_IS6_S6_ES_IS7_S7_E"
        "S_IS8_S8_ES_IS9_S9_ES_ISA_SA_ES_ISB_SB_ES_ISC_SC_ES_ISD_SD_ES_ISE_SE_ES_ISF_SF_ES_ISG_SG_E"
        "S_ISH_SH_ES_ISI_SI_ES_ISJ_SJ_ES_ISK_SK_ES_ISL_SL_ES_ISM_SM_ES_ISN_SN_ES_ISO_SO_ES_ISP_SP_"
        "E";
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    assert_demangles(bomb, bomb);
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_utime.tv_sec - before.ru_utime.tv_sec < 2);
    assert_true(after.ru_maxrss < 200 << 10); // KB
    assert_demangles("_Z1f1AIiiES_IS0_S0_E", "f(A<int, int>, A<A<int, int>, A<int, int> >)");
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

static void text_for_people_has_no_controls(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\x1b[31m\n\t\x7f", "?[31m???"},
        {"a\xc2\x9bm\xc2\xa0", "a?m\xc2\xa0"}, // C1's last and the character behind it
        {"\x9b", "\xef\xbf\xbd"},
        // U+061C, U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069, and those beside them.
        {"\xd8\x9b\xd8\x9c\xd8\x9d", "\xd8\x9b?\xd8\x9d"},
        {"\xe2\x80\x8d\xe2\x80\x8e\xe2\x80\x8f\xe2\x80\x90", "\xe2\x80\x8d??\xe2\x80\x90"},
        {"\xe2\x80\xa7\xe2\x80\xa8\xe2\x80\xae\xe2\x80\xaf", "\xe2\x80\xa7??\xe2\x80\xaf"},
        {"\xe2\x81\xa5\xe2\x81\xa6\xe2\x81\xa9\xe2\x81\xaa", "\xe2\x81\xa5??\xe2\x81\xaa"},
        {"\xf0\x9f\x90\x9b \xc3\xa9", "\xf0\x9f\x90\x9b \xc3\xa9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = utf8_plain(cases[i][0]);
        assert_string_equal(text, cases[i][1]);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(glob_matches_the_whole_text),
        cmocka_unit_test(glob_is_not_exponential),
        cmocka_unit_test(names_are_as_in_the_source),
        cmocka_unit_test(a_name_that_unfolds_to_gigabytes_stays_as_it_is),
        cmocka_unit_test(text_becomes_valid_utf8),
        cmocka_unit_test(text_for_people_has_no_controls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
