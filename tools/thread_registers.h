// A stopped thread's registers, as libunwind numbers them: one file an architecture.
#ifndef SOCKLEAK_TOOLS_THREAD_REGISTERS_H
#define SOCKLEAK_TOOLS_THREAD_REGISTERS_H

#include <libunwind.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/user.h>

// False for a register that is not among them (floating point).
bool thread_register(const struct user_regs_struct *registers, unw_regnum_t number, uint64_t *out);

uint64_t thread_stack_pointer(const struct user_regs_struct *registers);

#endif
