#include "fake_clock.h"
#include "base/clock.h"

uint64_t fake_clock_now_ns = 1000000000, fake_clock_epoch_ns = 1700000000000000000;

void clock_init(void) {}

uint64_t clock_now_ns(void) {
    return fake_clock_now_ns;
}

uint64_t clock_epoch_ns(void) {
    return fake_clock_epoch_ns;
}
