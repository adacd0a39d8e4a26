#include "thread_stacks.h"
#include "errors.h"
#include "gather.h"
#include "remote_modules.h"
#include "thread_calls.h"
#include "thread_registers.h"
#include <elf.h>
#include <errno.h>
#include <libunwind-ptrace.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

enum {
    STACK_BYTES_MAX = 1 << 20,
    DEPTH_MAX = 128,
    PAGE_BYTES = 4096,
    PAGES = 256,       // of code and unwind tables, kept
    STOP_WAIT_US = 50, // between two looks whether it has stopped
    STOP_TRIES = 1000,
};

struct page {
    uint64_t address;
    bool is_valid;
    unsigned char bytes[PAGE_BYTES];
};

// What a thread was like when it was copied. libunwind asks for it piece by piece.
struct copy {
    struct user_regs_struct registers;
    bool has_registers; // else only these two:
    uint64_t stack_pointer, counter;
    unsigned char *stack; // from stack_pointer on
    size_t stack_bytes;
};

// libunwind hands its callbacks one pointer, and _UPT_find_proc_info() wants that for itself.
static struct unwinding {
    pid_t pid;
    void *upt;
    unw_addr_space_t space;
    struct remote_modules modules;
    const struct copy *copy;
    struct page *pages;
} unwinding;

// --- memory -------------------------------------------------------------------------------------

static ssize_t read_memory(uint64_t address, void *out, size_t len_bytes) {
    struct iovec here = {out, len_bytes}, there = {(void *)(uintptr_t)address, len_bytes};
    return process_vm_readv(unwinding.pid, &here, 1, &there, 1, 0);
}

// A thread's stack from its top on, as much as there is of it.
static int copy_stack(struct copy *copy) {
    const struct remote_mapping *mapping =
        remote_modules_find(&unwinding.modules, copy->stack_pointer);
    if (!mapping)
        return -EFAULT;
    size_t bytes = (size_t)(mapping->end - copy->stack_pointer);
    bytes = bytes < STACK_BYTES_MAX ? bytes : STACK_BYTES_MAX;
    copy->stack = must_reallocate(copy->stack, bytes, 1);
    ssize_t got = read_memory(copy->stack_pointer, copy->stack, bytes);
    copy->stack_bytes = got > 0 ? (size_t)got : 0;
    return got > 0 ? 0 : -EFAULT;
}

// Code and unwind tables do not change: read page by page, and kept.
static const struct page *page_of(uint64_t address) {
    uint64_t start = address & ~(uint64_t)(PAGE_BYTES - 1);
    struct page *page = &unwinding.pages[start / PAGE_BYTES % PAGES];
    if (!page->is_valid || page->address != start) {
        page->address = start;
        page->is_valid = read_memory(start, page->bytes, PAGE_BYTES) == PAGE_BYTES;
    }
    return page->is_valid ? page : NULL;
}

static int access_memory(unw_addr_space_t space, unw_word_t address, unw_word_t *value, int write,
                         void *upt) {
    const struct copy *copy = unwinding.copy;
    (void)space, (void)upt;
    if (write)
        return -UNW_EINVAL;
    uint64_t at = address - copy->stack_pointer;
    if (address >= copy->stack_pointer && copy->stack_bytes >= sizeof *value &&
        at <= copy->stack_bytes - sizeof *value) {
        memcpy(value, copy->stack + at, sizeof *value);
        return 0;
    }
    const struct page *page = page_of(address);
    if (!page || address - page->address > PAGE_BYTES - sizeof *value)
        return read_memory(address, value, sizeof *value) == sizeof *value ? 0 : -UNW_EINVAL;
    memcpy(value, page->bytes + (address - page->address), sizeof *value);
    return 0;
}

static int access_register(unw_addr_space_t space, unw_regnum_t number, unw_word_t *value,
                           int write, void *upt) {
    const struct copy *copy = unwinding.copy;
    uint64_t found = 0;
    bool is_known = true;
    (void)space, (void)upt;
    if (copy->has_registers)
        is_known = thread_register(&copy->registers, number, &found);
    else if (number == UNW_REG_IP)
        found = copy->counter;
    else if (number == UNW_REG_SP)
        found = copy->stack_pointer;
    else
        is_known = false;
    if (write || !is_known)
        return -UNW_EBADREG;
    *value = found;
    return 0;
}

static int no_float_register(unw_addr_space_t space, unw_regnum_t number, unw_fpreg_t *value,
                             int write, void *upt) {
    (void)space, (void)number, (void)value, (void)write, (void)upt;
    return -UNW_EBADREG;
}

static int no_resume(unw_addr_space_t space, unw_cursor_t *cursor, void *upt) {
    (void)space, (void)cursor, (void)upt;
    return -UNW_EINVAL;
}

static int no_name(unw_addr_space_t space, unw_word_t address, char *name, size_t bytes,
                   unw_word_t *offset, void *upt) {
    (void)space, (void)address, (void)name, (void)bytes, (void)offset, (void)upt;
    return -UNW_ENOINFO;
}

// --- unwinding ----------------------------------------------------------------------------------

struct trace {
    uint64_t counters[DEPTH_MAX];
    uint32_t depth;
    bool is_whole; // up to where the thread began
};

static void unwind(const struct copy *copy, struct trace *out) {
    unw_cursor_t cursor;
    unw_word_t counter;
    int more = 1;
    unwinding.copy = copy;
    out->depth = 0;
    out->is_whole = false;
    if (unw_init_remote(&cursor, unwinding.space, unwinding.upt) < 0)
        return;
    while (more > 0 && out->depth < DEPTH_MAX && unw_get_reg(&cursor, UNW_REG_IP, &counter) == 0 &&
           counter) {
        out->counters[out->depth++] = counter;
        more = unw_step(&cursor);
    }
    out->is_whole = more == 0 || (more > 0 && out->depth < DEPTH_MAX);
}

static struct report_stack *stack_of(struct report *report, const struct trace *trace) {
    struct report_address addresses[DEPTH_MAX];
    for (uint32_t i = 0; i < trace->depth; i++)
        addresses[i] = remote_modules_address(&unwinding.modules, trace->counters[i]);
    return gather_stack(report, addresses, trace->depth, !trace->is_whole);
}

// --- without a stop -----------------------------------------------------------------------------

static bool same_call(const struct thread_call *a, const struct thread_call *b) {
    return a->number == b->number && a->stack_pointer == b->stack_pointer &&
           a->counter == b->counter && memcmp(a->arguments, b->arguments, sizeof a->arguments) == 0;
}

// How often a thread has blocked: the same before and after means that it was all the while.
static long switches_of(const struct report_thread *thread) {
    char path[64], text[4096];
    long count = -1;
    snprintf(path, sizeof path, "/proc/%d/task/%u/status", (int)unwinding.pid, thread->tid);
    FILE *file = fopen(path, "re");
    while (file && count < 0 && fgets(text, sizeof text, file))
        if (sscanf(text, "voluntary_ctxt_switches: %ld", &count) != 1)
            count = -1;
    if (file)
        fclose(file);
    return count;
}

static bool copy_untouched(const struct report_thread *thread, struct copy *copy) {
    struct thread_call before, after;
    long switches = switches_of(thread);
    copy->has_registers = false;
    if (thread_call_read(unwinding.pid, (pid_t)thread->tid, &before) < 0 || before.number < 0)
        return false;
    copy->stack_pointer = before.stack_pointer;
    copy->counter = before.counter;
    return copy_stack(copy) == 0 &&
           thread_call_read(unwinding.pid, (pid_t)thread->tid, &after) == 0 &&
           same_call(&before, &after) && switches == switches_of(thread);
}

// --- with one -----------------------------------------------------------------------------------

static int wait_for_stop(pid_t tid, int *status) {
    const struct timespec pause = {.tv_nsec = STOP_WAIT_US * 1000};
    for (int i = 0; i < STOP_TRIES; i++) {
        pid_t changed = waitpid(tid, status, __WALL | WNOHANG);
        if (changed == tid)
            return WIFSTOPPED(*status) ? 0 : -ESRCH;
        if (changed < 0)
            return -errno;
        nanosleep(&pause, NULL);
    }
    return -ETIMEDOUT;
}

static int copy_registers(pid_t tid, struct copy *copy) {
    struct iovec registers = {&copy->registers, sizeof copy->registers};
    if (ptrace(PTRACE_GETREGSET, tid, (void *)(uintptr_t)NT_PRSTATUS, &registers) < 0)
        return -errno;
    copy->has_registers = true;
    copy->stack_pointer = thread_stack_pointer(&copy->registers);
    return copy_stack(copy);
}

// Between PTRACE_SEIZE and PTRACE_DETACH nothing may end us but what the kernel cleans up after
// (SIGKILL): signals wait. A signal that the thread was just given is passed on with the detach.
static int copy_stopped(pid_t tid, struct copy *copy) {
    sigset_t all, before;
    int status = 0, error = 0;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
        error = -errno;
    if (error == 0) {
        if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
            error = -errno;
        if (error == 0)
            error = wait_for_stop(tid, &status);
        // One that did not stop cannot be detached from; that it is traced ends with us.
        if (error == 0) {
            bool is_event = status >> 16 == PTRACE_EVENT_STOP;
            error = copy_registers(tid, copy);
            ptrace(PTRACE_DETACH, tid, NULL, (void *)(uintptr_t)(is_event ? 0 : WSTOPSIG(status)));
        }
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return error;
}

static const char *problem_of(int error) {
    return error == -EPERM       ? "may not be traced: a debugger has it, or this user may not"
           : error == -ESRCH     ? "has ended"
           : error == -ETIMEDOUT ? "could not be stopped"
                                 : "its stack cannot be read";
}

// --- all of them --------------------------------------------------------------------------------

static void take_one(struct report *report, struct report_thread *thread, struct copy *copy) {
    struct trace trace = {0}, better = {0};
    if (thread->call < 0) {
        thread->stack_problem = "it runs";
        return;
    }
    if (copy_untouched(thread, copy))
        unwind(copy, &trace);
    // A thread in state D does not stop, and would stay traced.
    if (!trace.is_whole && thread->state != 'D') {
        int error = copy_stopped((pid_t)thread->tid, copy);
        thread->was_stopped = error == 0;
        if (error == 0)
            unwind(copy, &better);
        else if (trace.depth == 0)
            thread->stack_problem = problem_of(error);
    }
    const struct trace *best = better.is_whole || better.depth > trace.depth ? &better : &trace;
    if (best->depth)
        thread->stack = stack_of(report, best);
    else if (!thread->stack_problem)
        thread->stack_problem = problem_of(-EFAULT);
}

int thread_stacks_take(struct report *report, pid_t pid, struct report_thread *threads,
                       uint32_t count) {
    static unw_accessors_t accessors = {
        .find_proc_info = _UPT_find_proc_info,
        .put_unwind_info = _UPT_put_unwind_info,
        .get_dyn_info_list_addr = _UPT_get_dyn_info_list_addr,
        .access_mem = access_memory,
        .access_reg = access_register,
        .access_fpreg = no_float_register,
        .resume = no_resume,
        .get_proc_name = no_name,
    };
    struct copy copy = {0};
    unwinding = (struct unwinding){.pid = pid};
    int error = remote_modules_read(&unwinding.modules, report, pid);
    if (error < 0)
        return error;
    unwinding.pages = must_allocate(PAGES, sizeof *unwinding.pages);
    unwinding.space = unw_create_addr_space(&accessors, 0);
    unwinding.upt = _UPT_create(pid);
    if (unwinding.space && unwinding.upt) {
        unw_set_caching_policy(unwinding.space, UNW_CACHE_GLOBAL);
        for (uint32_t i = 0; i < count; i++)
            take_one(report, &threads[i], &copy);
    }
    if (unwinding.upt)
        _UPT_destroy(unwinding.upt);
    if (unwinding.space)
        unw_destroy_addr_space(unwinding.space);
    remote_modules_free(&unwinding.modules);
    free(unwinding.pages);
    free(copy.stack);
    return 0;
}
