// A record's way into the ledger's fd table, for tests whose matter is another one.
#ifndef SOCKLEAK_TESTS_UNIT_FD_TABLE_H
#define SOCKLEAK_TESTS_UNIT_FD_TABLE_H

#include "ledger/ledger.h"
#include "unit.h"

// Puts a record in an fd's place, and passes its reference; whatever stands there. Returns that,
// with its reference.
static inline uint32_t fd_table_put(int fd, uint32_t number) {
    uint32_t there;
    assert_int_equal(ledger_fd_reserve(fd), 0);
    do
        there = ledger_fd(fd);
    while (!ledger_fd_replace(fd, there, number));
    return there;
}

#endif
