// Section 5 of the design, a second time: which verdicts a socket may have, from what the kernel
// says of it and what this process was told. Shares no code with preload/report/verdict.c.
#ifndef SOCKLEAK_TESTS_STRESS_JUDGE_H
#define SOCKLEAK_TESTS_STRESS_JUDGE_H

#include "model.h"

// A set of verdicts, as bits 1 << enum verdict. More than one where this process cannot know.
unsigned judge_verdicts(const struct known *known, const struct look *look, bool parent_has_it);

// A set of states, as bits 1 << enum ledger_tcp_state.
unsigned judge_states(const struct known *known, const struct look *look);

// Could the end of the peer's stream be what a read of 0 bytes told?
bool judge_end_of_stream(const struct known *known, const struct look *look);

#endif
