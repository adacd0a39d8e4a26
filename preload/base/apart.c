#include "base/apart.h"
#include "base/process.h"
#include "base/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>

#ifndef SYS_close_range // Linux 5.9; the number is every architecture's
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif

enum {
    STACK_BYTES = 256 << 10,
    FIRST_CLOSED = 3, // behind stdin, stdout and stderr
    GONE_TRIES_MAX = 100
};

struct task {
    void (*work)(void *);
    void *context;
    bool is_done;
};

// The thread's whole life. The kernel copies of the table only what this call leaves open, so that
// a file which another thread closes meanwhile is closed (close_range(2)).
static void do_task(void *argument) {
    struct task *task = argument;
    if (sys_call(SYS_close_range, FIRST_CLOSED, ~0U, CLOSE_RANGE_UNSHARE, 0, 0, 0) < 0)
        return;
    task->work(task->context);
    task->is_done = true;
}

// clone(2), whose child begins on another stack: it calls `function`, and ends the thread. Not
// libc's, which is a hook of ours, and sets errno.
static long clone_calling(unsigned long flags, void *stack_end, void (*function)(void *),
                          void *argument) {
#if defined(__x86_64__)
    register long parent_tid __asm__("rdx") = 0;
    register long child_tid __asm__("r10") = 0;
    register long tls __asm__("r8") = 0;
    register void (*called)(void *) __asm__("r12") = function;
    register void *given __asm__("r13") = argument;
    long result;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "xorl %%edi, %%edi\n\t"
                     "movl %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)SYS_clone), "D"(flags), "S"(stack_end), "r"(parent_tid),
                       "r"(child_tid), "r"(tls), "r"(called), "r"(given), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register long number __asm__("x8") = SYS_clone;
    register long x0 __asm__("x0") = (long)flags;
    register void *x1 __asm__("x1") = stack_end;
    register long parent_tid __asm__("x2") = 0;
    register long tls __asm__("x3") = 0;
    register long child_tid __asm__("x4") = 0;
    register void (*called)(void *) __asm__("x19") = function;
    register void *given __asm__("x20") = argument;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "mov x0, xzr\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc 0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(number), "r"(x1), "r"(parent_tid), "r"(tls), "r"(child_tid), "r"(called),
                       "r"(given), [exit] "i"(SYS_exit)
                     : "memory", "cc");
    return x0;
#endif
}

// The kernel wakes us when the thread has done with this memory (CLONE_VFORK), and counts it among
// the threads for a moment longer: unshare(2) and setns(2) refuse some things to a process with
// two.
static void wait_until_gone(uint32_t tid) {
    for (int tries = 0; tries < GONE_TRIES_MAX && process_has_thread(tid); tries++)
        sys_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

// What pthread_create asks for, so that a filter of system calls (seccomp) lets it pass where it
// lets that pass; and that we are stopped until it is over. No signal at its end, nobody to wait.
static bool run_in_thread(struct task *task) {
    enum {
        LIKE_A_THREAD =
            CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
    };
    char *stack = sys_mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (sys_failed(stack))
        return false;
    long tid = clone_calling(LIKE_A_THREAD | CLONE_VFORK, stack + STACK_BYTES, do_task, task);
    if (tid > 0)
        wait_until_gone((uint32_t)tid);
    sys_munmap(stack, STACK_BYTES);
    return task->is_done;
}

int apart_run(void (*work)(void *), void *context) {
    struct task task = {work, context, false};
    int fd = sys_openat(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    if (fd >= 0)
        sys_close(fd);
    if (fd == -EMFILE && run_in_thread(&task))
        return 0;
    work(context);
    return fd == -EMFILE || fd == -ENFILE ? fd : 0;
}
