#include "thread_registers.h"

bool thread_register(const struct user_regs_struct *registers, unw_regnum_t number, uint64_t *out) {
    const struct {
        unw_regnum_t number;
        unsigned long long value;
    } all[] = {
        {UNW_X86_64_RAX, registers->rax}, {UNW_X86_64_RDX, registers->rdx},
        {UNW_X86_64_RCX, registers->rcx}, {UNW_X86_64_RBX, registers->rbx},
        {UNW_X86_64_RSI, registers->rsi}, {UNW_X86_64_RDI, registers->rdi},
        {UNW_X86_64_RBP, registers->rbp}, {UNW_X86_64_RSP, registers->rsp},
        {UNW_X86_64_R8, registers->r8},   {UNW_X86_64_R9, registers->r9},
        {UNW_X86_64_R10, registers->r10}, {UNW_X86_64_R11, registers->r11},
        {UNW_X86_64_R12, registers->r12}, {UNW_X86_64_R13, registers->r13},
        {UNW_X86_64_R14, registers->r14}, {UNW_X86_64_R15, registers->r15},
        {UNW_X86_64_RIP, registers->rip},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].number == number) {
            *out = all[i].value;
            return true;
        }
    return false;
}

uint64_t thread_stack_pointer(const struct user_regs_struct *registers) {
    return registers->rsp;
}
