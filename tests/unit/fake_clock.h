// The clock under the test's hand: base/clock.h, linked in place of base/clock.c.
#ifndef SOCKLEAK_TESTS_UNIT_FAKE_CLOCK_H
#define SOCKLEAK_TESTS_UNIT_FAKE_CLOCK_H

#include <stdint.h>

extern uint64_t fake_clock_now_ns, fake_clock_epoch_ns;

#endif
