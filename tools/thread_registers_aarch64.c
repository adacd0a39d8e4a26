#include "thread_registers.h"

bool thread_register(const struct user_regs_struct *registers, unw_regnum_t number, uint64_t *out) {
    if (number >= UNW_AARCH64_X0 && number <= UNW_AARCH64_X30)
        *out = registers->regs[number - UNW_AARCH64_X0];
    else if (number == UNW_AARCH64_SP)
        *out = registers->sp;
    else if (number == UNW_AARCH64_PC)
        *out = registers->pc;
    else
        return false;
    return true;
}

uint64_t thread_stack_pointer(const struct user_regs_struct *registers) {
    return registers->sp;
}
