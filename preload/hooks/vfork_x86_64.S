// pid_t vfork(void)
//
// A vfork child runs in its parent's memory, on its parent's stack, with its parent's thread-local
// variables, while the parent's thread sleeps. owner_vfork_depth is raised for the child, so that
// every hook it calls passes on and touches nothing, and put back when the parent wakes. The parent
// does both: a child may be killed before its first instruction, or in a vfork of its own.
//
// It cannot be written in C: the child returns from this function first and uses its stack, so the
// return address must be kept in a register (rdx: a system call preserves it, as it does rdi and
// rsi). That is also why the call is made here, and not passed on.

#include <sys/syscall.h>

        .text
        .globl  vfork, __vfork
        .type   vfork, @function
vfork:
        .cfi_startproc
        subq    $8, %rsp
        .cfi_adjust_cfa_offset 8
        call    vfork_begins@plt
        addq    $8, %rsp
        .cfi_adjust_cfa_offset -8
        popq    %rdx
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rdx
        movq    owner_vfork_depth@gottpoff(%rip), %rdi
        movl    %fs:(%rdi), %esi
        incl    %fs:(%rdi)
        movl    $SYS_vfork, %eax
        syscall
        pushq   %rdx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rip, 0
        testl   %eax, %eax
        jz      .Lchild
        movl    %esi, %fs:(%rdi)
        js      .Lfailed
.Lchild:
        ret
.Lfailed:
        negl    %eax
        pushq   %rax
        .cfi_adjust_cfa_offset 8
        call    __errno_location@plt
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        movl    %ecx, (%rax)
        movl    $-1, %eax
        ret
        .cfi_endproc
        .size   vfork, .-vfork
        .set    __vfork, vfork
        .section .note.GNU-stack, "", @progbits
