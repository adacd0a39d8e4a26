// pid_t vfork(void)
//
// A vfork child runs in its parent's memory, on its parent's stack, with its parent's thread-local
// variables, while the parent's thread sleeps. owner_vfork_depth is raised by the child, so that
// every hook it calls passes on and touches nothing, and lowered by the parent when it wakes.
//
// It cannot be written in C: the child returns from this function first and uses its stack, so the
// return address must be kept in a register (rdx: a system call preserves it). That is also why the
// call is made here, and not passed on.

#include <sys/syscall.h>

        .text
        .globl  vfork, __vfork
        .type   vfork, @function
vfork:
        .cfi_startproc
        popq    %rdx
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rdx
        movl    $SYS_vfork, %eax
        syscall
        pushq   %rdx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rip, 0
        movq    owner_vfork_depth@gottpoff(%rip), %rcx
        testl   %eax, %eax
        js      .Lfailed
        jz      .Lchild
        decl    %fs:(%rcx)
        ret
.Lchild:
        incl    %fs:(%rcx)
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
