#include "report/interrupted.h"
#include "base/compiler.h"
#include "base/readable.h"
#include "base/sys.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <ucontext.h>

// --- what a call waits on -----------------------------------------------------------------------

// Another thread's stack may be gone by the time that it is looked at.
static bool read_own_memory(uint64_t address, void *out, size_t bytes) {
    struct iovec to = {out, bytes};
    struct iovec from = {(void *)(uintptr_t)address, bytes}; // NOLINT(performance-no-int-to-ptr)
    return sys_call(SYS_process_vm_readv, sys_getpid(), (long)&to, 1, (long)&from, 1, 0) ==
           (long)bytes;
}

static int32_t only_polled(uint64_t fds, uint64_t count) {
    struct pollfd one = {.fd = -1};
    return count == 1 && read_own_memory(fds, &one, sizeof one) ? one.fd : -1;
}

int32_t call_fd(int32_t number, const uint64_t arguments[3]) {
    switch (number) {
    case SYS_read:
    case SYS_readv:
    case SYS_preadv2:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_write:
    case SYS_writev:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_connect:
    case SYS_accept:
    case SYS_accept4:
    case SYS_epoll_pwait:
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
        return (int32_t)arguments[0];
#ifdef SYS_poll
    case SYS_poll:
        return (int32_t)arguments[2] < 0 ? only_polled(arguments[0], arguments[1]) : -1;
#endif
    case SYS_ppoll:
        return arguments[2] == 0 ? only_polled(arguments[0], arguments[1]) : -1;
    default:
        return -1;
    }
}

// --- what a signal interrupted ------------------------------------------------------------------

static const struct thread_call running = {-1, -1};

#if defined(__x86_64__)

static bool is_system_call_at(const uint8_t *code) {
    return code[0] == 0x0f && code[1] == 0x05;
}

// A call that is begun again after the handler (SA_RESTART) has its number back, and the
// instruction is the next one (arch/x86/kernel/signal.c, handle_signal). One that is not has failed
// with EINTR: its arguments are still there, and its number is where libc loads it, in front.
static struct thread_call call_of(const ucontext_t *context) {
    const greg_t *r = context->uc_mcontext.gregs;
    const uint8_t *next = (const uint8_t *)(uintptr_t)r[REG_RIP]; // NOLINT
    struct thread_call call = running;
    enum {
        LOAD_BYTES = 5, // mov $number, %eax
        CALL_BYTES = 2
    };
    // A neighbouring page may not be there, and code may be execute-only (pkeys(7)).
    if (!readable(next - CALL_BYTES - LOAD_BYTES, LOAD_BYTES + 2 * CALL_BYTES))
        return running;
    if (is_system_call_at(next)) {
        call.number = (int32_t)r[REG_RAX];
    } else if (is_system_call_at(next - CALL_BYTES) && r[REG_RAX] == -EINTR &&
               next[-CALL_BYTES - LOAD_BYTES] == 0xb8) {
        memcpy(&call.number, next - CALL_BYTES - LOAD_BYTES + 1, sizeof call.number);
    } else {
        return running;
    }
    uint64_t arguments[] = {(uint64_t)r[REG_RDI], (uint64_t)r[REG_RSI], (uint64_t)r[REG_RDX]};
    call.fd = call_fd(call.number, arguments);
    return call;
}

#elif defined(__aarch64__)

static bool is_system_call_at(uint64_t address) {
    uint32_t code;
    return read_own_memory(address, &code, sizeof code) && code == 0xd4000001; // svc #0
}

// As on x86, but the number stays in x8 (arch/arm64/kernel/signal.c, do_signal).
static struct thread_call call_of(const ucontext_t *context) {
    const mcontext_t *m = &context->uc_mcontext;
    uint64_t arguments[] = {m->regs[0], m->regs[1], m->regs[2]};
    struct thread_call call = {(int32_t)m->regs[8], -1};
    if (is_system_call_at(m->pc))
        call.fd = call_fd(call.number, arguments);
    else if (!is_system_call_at(m->pc - 4) || (int64_t)m->regs[0] != -EINTR)
        return running;
    return call;
}

#endif

static THREAD_LOCAL volatile int depth;
static THREAD_LOCAL struct thread_call innermost;

void interrupted_begin(const void *ucontext) {
    innermost = ucontext ? call_of(ucontext) : running;
    depth++;
}

void interrupted_end(void) {
    depth--;
}

bool interrupted_call(struct thread_call *out) {
    *out = depth > 0 ? innermost : running;
    return depth > 0;
}
