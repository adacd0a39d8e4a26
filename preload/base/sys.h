// System calls without libc.
//
// Our own calls must not enter our own hooks, must not be cancellation points, and must leave errno
// alone; libc's wrappers do all three. Each function here returns what the kernel returns: a result
// >= 0, or -errno. All of it is safe in a signal handler and after fork.
#ifndef SOCKLEAK_BASE_SYS_H
#define SOCKLEAK_BASE_SYS_H

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#if defined(__x86_64__)

static inline long sys_call(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

static inline long sys_call(long number, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

#else
#error "sockleak knows x86-64 and aarch64: add this architecture's system call instruction here"
#endif

// What mprotect and MAP_FIXED take is a multiple of it. On aarch64 the kernel was built for 4, 16
// or 64 KB (arch/arm64/Kconfig, "Page size").
static inline size_t sys_page_bytes(void) {
#if defined(__x86_64__)
    return 4096;
#else
    return getauxval(AT_PAGESZ);
#endif
}

// The kernel's struct stat is libc's on both architectures.
static inline int sys_fstat(int fd, struct stat *out) {
    return (int)sys_call(SYS_fstat, fd, (long)out, 0, 0, 0, 0);
}

static inline int sys_openat(int dir, const char *path, int flags, int mode) {
    return (int)sys_call(SYS_openat, dir, (long)path, flags, mode, 0, 0);
}

static inline int sys_close(int fd) {
    return (int)sys_call(SYS_close, fd, 0, 0, 0, 0, 0);
}

// What poll(2) sees of one fd right now: the POLL... of `events`, and those that it always tells.
static inline int sys_poll_at_once(int fd, int events) {
    struct pollfd poll = {.fd = fd, .events = (short)events};
#if defined(SYS_poll)
    long count = sys_call(SYS_poll, (long)&poll, 1, 0, 0, 0, 0);
#else
    struct timespec at_once = {0};
    long count = sys_call(SYS_ppoll, (long)&poll, 1, (long)&at_once, 0, 0, 0);
#endif
    return count < 0 ? (int)count : poll.revents;
}

static inline long sys_read(int fd, void *buffer, size_t len_bytes) {
    return sys_call(SYS_read, fd, (long)buffer, (long)len_bytes, 0, 0, 0);
}

static inline long sys_write(int fd, const void *buffer, size_t len_bytes) {
    return sys_call(SYS_write, fd, (long)buffer, (long)len_bytes, 0, 0, 0);
}

static inline long sys_readlinkat(int dir, const char *path, char *out, size_t size_bytes) {
    return sys_call(SYS_readlinkat, dir, (long)path, (long)out, (long)size_bytes, 0, 0);
}

// Answers an address, or -errno as a pointer: test with sys_failed().
static inline void *sys_mmap(void *at, size_t len_bytes, int protection, int flags, int fd,
                             long offset) {
    return (void *)sys_call(SYS_mmap, (long)at, (long)len_bytes, protection, flags, fd, offset);
}

static inline int sys_failed(const void *mapped) {
    return (uintptr_t)mapped >= (uintptr_t)-4095;
}

static inline int sys_munmap(void *at, size_t len_bytes) {
    return (int)sys_call(SYS_munmap, (long)at, (long)len_bytes, 0, 0, 0, 0);
}

static inline int sys_mprotect(void *at, size_t len_bytes, int protection) {
    return (int)sys_call(SYS_mprotect, (long)at, (long)len_bytes, protection, 0, 0, 0);
}

static inline int sys_madvise(void *at, size_t len_bytes, int advice) {
    return (int)sys_call(SYS_madvise, (long)at, (long)len_bytes, advice, 0, 0, 0);
}

static inline int sys_getpid(void) {
    return (int)sys_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

static inline int sys_getppid(void) {
    return (int)sys_call(SYS_getppid, 0, 0, 0, 0, 0, 0);
}

static inline int sys_gettid(void) {
    return (int)sys_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

static inline int sys_getsockopt(int fd, int level, int name, void *out, unsigned *len_bytes) {
    return (int)sys_call(SYS_getsockopt, fd, level, name, (long)out, (long)len_bytes, 0);
}

// Signal masks of the calling thread, as the kernel has them: bit 0 is signal 1. Each returns the
// mask that was in force before.
static inline uint64_t sys_change_signal_mask(int how, uint64_t mask) {
    uint64_t before = 0;
    sys_call(SYS_rt_sigprocmask, how, (long)&mask, (long)&before, sizeof mask, 0, 0);
    return before;
}

static inline uint64_t sys_set_signal_mask(uint64_t mask) {
    return sys_change_signal_mask(SIG_SETMASK, mask);
}

// All that somebody can send. A crash of ours must stay a crash; and a SIGSYS that is blocked
// kills, where the program would handle it: seccomp(2), SECCOMP_RET_TRAP.
static inline uint64_t sys_block_signals(void) {
    const uint64_t synchronous =
        1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGFPE - 1) | 1ull << (SIGILL - 1) |
        1ull << (SIGTRAP - 1) | 1ull << (SIGABRT - 1) | 1ull << (SIGSYS - 1);
    return sys_change_signal_mask(SIG_BLOCK, ~synchronous);
}

static inline void sys_sleep_ms(long ms) {
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    sys_call(SYS_nanosleep, (long)&time, 0, 0, 0, 0, 0);
}

#endif
