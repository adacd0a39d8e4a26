// report/names: the words for a ledger's numbers.
#include "ledger/ledger_format.h"
#include "report/names.h"
#include "unit.h"
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>

// The judge: libc's own numbers for the states, in netstat's spelling.
static void states_have_the_kernels_numbers(void **state) {
    (void)state;
    static const struct {
        uint8_t number;
        const char *name;
    } states[] = {
        {TCP_ESTABLISHED, "ESTABLISHED"},
        {TCP_SYN_SENT, "SYN_SENT"},
        {TCP_SYN_RECV, "SYN_RECV"},
        {TCP_FIN_WAIT1, "FIN_WAIT1"},
        {TCP_FIN_WAIT2, "FIN_WAIT2"},
        {TCP_TIME_WAIT, "TIME_WAIT"},
        {TCP_CLOSE, "CLOSE"},
        {TCP_CLOSE_WAIT, "CLOSE_WAIT"},
        {TCP_LAST_ACK, "LAST_ACK"},
        {TCP_LISTEN, "LISTEN"},
        {TCP_CLOSING, "CLOSING"},
    };
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        assert_string_equal(name_of_state(states[i].number), states[i].name);
}

static void every_call_has_a_name_of_its_own(void **state) {
    (void)state;
    for (int i = 1; i < CALL_COUNT; i++) {
        const char *name = name_of_call((uint8_t)i);
        if (i > CALL_PIDFD_GETFD && i < CALL_READ) { // were other calls', once
            assert_string_equal(name, "unknown");
            continue;
        }
        assert_string_not_equal(name, "unknown");
        for (const char *at = name; *at; at++)
            assert_true(islower(*at) || isdigit(*at) || *at == '_');
        for (int k = 1; k < i; k++)
            assert_string_not_equal(name, name_of_call((uint8_t)k));
    }
    assert_string_equal(name_of_call(CALL_ACCEPT4), "accept4");
    assert_string_equal(name_of_call(CALL_RECVFROM), "recvfrom");
    assert_string_equal(name_of_call(CALL_PIDFD_GETFD), "pidfd_getfd");
    assert_string_equal(name_of_call(CALL_UNKNOWN), "unknown");
}

// The judge: strerrorname_np, where libc has it.
static void errors_have_their_names(void **state) {
    (void)state;
    static const int errors[] = {ECONNRESET,   EPIPE,       ETIMEDOUT,
                                 EHOSTUNREACH, ENETUNREACH, ECONNABORTED};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        assert_string_equal(name_of_error((uint16_t)errors[i]), strerrorname_np(errors[i]));
}

static void numbers_that_mean_nothing_are_unknown(void **state) {
    (void)state;
    assert_string_equal(name_of_state(0), "unknown");
    for (int i = 0; i < 256; i++) {
        if (i >= CALL_COUNT)
            assert_string_equal(name_of_call((uint8_t)i), "unknown");
        if (i > TCP_CLOSING)
            assert_string_equal(name_of_state((uint8_t)i), "unknown");
        if (i > PROVENANCE_FOUND)
            assert_string_equal(name_of_provenance((uint8_t)i), "unknown");
    }
    assert_string_equal(name_of_error(0), "unknown");
    assert_string_equal(name_of_error(65535), "unknown");
}

static void provenances_have_names(void **state) {
    (void)state;
    assert_string_equal(name_of_provenance(PROVENANCE_CREATED), "created");
    assert_string_equal(name_of_provenance(PROVENANCE_RECEIVED), "received");
    assert_string_equal(name_of_provenance(PROVENANCE_ADOPTED), "adopted");
    assert_string_equal(name_of_provenance(PROVENANCE_FOUND), "found");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_have_the_kernels_numbers),
        cmocka_unit_test(every_call_has_a_name_of_its_own),
        cmocka_unit_test(errors_have_their_names),
        cmocka_unit_test(numbers_that_mean_nothing_are_unknown),
        cmocka_unit_test(provenances_have_names),
    };
    return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
