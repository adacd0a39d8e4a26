// How to get from a frame to its caller, for the frames of compiled code as it almost always is:
// the caller's stack pointer (the CFA) is rsp or rbp and a constant, and rbp is where it was or in
// a slot at a constant distance from the CFA. Read from the call frame information in .eh_frame
// (DWARF 5, 6.4; Linux Standard Base, "DWARF Extensions"). All other frames are REFUSED: signal
// frames, CFAs by expression (realigned stacks), code that has no such information.
#ifndef SOCKLEAK_TRACK_FRAME_RULES_H
#define SOCKLEAK_TRACK_FRAME_RULES_H

#include <stdint.h>

enum frame_kind {
    FRAME_REFUSED,
    FRAME_BY_RSP,
    FRAME_BY_RBP,
    FRAME_OUTERMOST // has no caller: the return address is undefined
};

enum {
    FRAME_RBP_KEPT = -8 // no slot can be there: it is the return address's
};

struct frame_rule {
    int32_t cfa_offset; // from rsp or rbp
    int16_t rbp_offset; // of its slot, from the CFA; FRAME_RBP_KEPT: rbp is the caller's
    uint16_t kind;      // enum frame_kind
};

// No rule is all zeros.
#define FRAME_RULE_REFUSED                                                                         \
    ((struct frame_rule){.rbp_offset = FRAME_RBP_KEPT, .kind = FRAME_REFUSED})

// The rule at a return address, or where the unwinding starts. Lock-free, no malloc; signal-safe.
// FRAME_REFUSED on architectures that nobody wrote it for.
struct frame_rule frame_rule_at(uintptr_t pc);

#endif
