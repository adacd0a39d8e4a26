// pid_t vfork(void): see vfork_x86_64.S for what and why. The return address is in x30 here, a
// register that the child cannot change for the parent. aarch64 has no vfork system call: it is
// clone(CLONE_VFORK | CLONE_VM | SIGCHLD, 0).

#include <sys/syscall.h>

        .text
        .globl  vfork, __vfork
        .type   vfork, %function
vfork:
        .cfi_startproc
        stp     x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset 29, -16
        .cfi_offset 30, -8
        bl      vfork_begins
        ldp     x29, x30, [sp], #16
        .cfi_restore 29
        .cfi_restore 30
        .cfi_def_cfa_offset 0
        mrs     x9, tpidr_el0
        adrp    x10, :gottprel:owner_vfork_depth
        ldr     x10, [x10, #:gottprel_lo12:owner_vfork_depth]
        ldr     w11, [x9, x10]
        add     w12, w11, #1
        str     w12, [x9, x10]
        mov     x0, #0x4111
        mov     x1, #0
        mov     x2, #0
        mov     x3, #0
        mov     x4, #0
        mov     x8, #SYS_clone
        svc     #0
        cbz     x0, .Lchild
        str     w11, [x9, x10]
        cmp     x0, #0
        b.lt    .Lfailed
.Lchild:
        ret
.Lfailed:
        stp     x29, x30, [sp, #-32]!
        .cfi_def_cfa_offset 32
        .cfi_offset 29, -32
        .cfi_offset 30, -24
        neg     x0, x0
        str     x0, [sp, #16]
        bl      __errno_location
        ldr     x1, [sp, #16]
        str     w1, [x0]
        ldp     x29, x30, [sp], #32
        .cfi_restore 29
        .cfi_restore 30
        .cfi_def_cfa_offset 0
        mov     w0, #-1
        ret
        .cfi_endproc
        .size   vfork, .-vfork
        .set    __vfork, vfork
        .section .note.GNU-stack, "", %progbits
