// Backtraces by libunwind, kept apart from the program.
//
// Apart in three ways, each of them a fact about libunwind 1.6.2 (Debian 12):
// - It exports _Unwind_* and backtrace. As a dependency of a preloaded library it would take over
// the
//   program's exception handling. So it is opened with dlopen, RTLD_LOCAL.
// - To find out whether an address can be read (x86_64/Ginit.c: write_validate) it keeps a pipe
// open
//   in the program, reads a byte from it and writes one to it. A daemon that closes all descriptors
//   then gets those numbers for its own sockets, and loses and gains bytes. So read, write, pipe2,
//   close and syscall in libunwind's own import table lead to functions of ours, which use no
//   descriptor.
// - Its first backtrace on each thread mallocs, by way of __tls_get_addr, for 16 bytes of
// thread-local
//   variables. A signal handler that accepts while malloc's lock is held would hang. So
//   __tls_get_addr in that table leads to static TLS of ours.
#include "base/guard.h"
#include "base/sys.h"
#include "track/unwinder.h"
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    LOAD_WAIT_MS = 50,
    TLS_BYTES = 64,
    PAGE_BYTES = 4096
};

enum load_state {
    NOT_LOADED,
    LOADING,
    LOADED,
    FAILED
};

static int state; // enum load_state
static const char *problem = "";
static int (*unw_backtrace_function)(void **, int);

static THREAD_LOCAL char libunwind_tls[TLS_BYTES] __attribute__((aligned(16)));

// --- what libunwind calls instead of libc -------------------------------------------------------

// Can 8 bytes be read there? The kernel copies the set before it looks at `how`: EFAULT says no,
// and EINVAL, for a `how` that does not exist, says yes (kernel/signal.c, rt_sigprocmask).
static bool can_be_read(const void *address) {
    const void *aligned = (const void *)((uintptr_t)address & ~(uintptr_t)7);
    return sys_call(SYS_rt_sigprocmask, ~0L, (long)aligned, 0, 8, 0, 0) != -EFAULT;
}

static ssize_t private_write(int fd, const void *buffer, size_t len_bytes) {
    (void)fd;
    if (can_be_read(buffer))
        return (ssize_t)len_bytes;
    errno = EFAULT;
    return -1;
}

// An empty, healthy pipe.
static ssize_t private_read(int fd, void *buffer, size_t len_bytes) {
    (void)fd, (void)buffer, (void)len_bytes;
    errno = EAGAIN;
    return -1;
}

static int private_pipe2(int fds[2], int flags) {
    (void)flags;
    fds[0] = fds[1] = -1;
    return 0;
}

static int private_close(int fd) {
    (void)fd;
    return 0;
}

static long private_syscall(long number, long a, long b, long c, long d, long e, long f) {
    if (number == SYS_write)
        return private_write((int)a, (const void *)b, (size_t)c);
    if (number == SYS_read)
        return private_read((int)a, (void *)b, (size_t)c);
    if (number == SYS_close)
        return 0;
    if (number == SYS_pipe2)
        return private_pipe2((int *)a, (int)b); // NOLINT(performance-no-int-to-ptr)
    long result = sys_call(number, a, b, c, d, e, f);
    if (result >= -4095 && result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

struct tls_index {
    unsigned long module, offset;
};

static void *private_tls_get_addr(const struct tls_index *index) {
    return libunwind_tls + index->offset;
}

static const struct {
    const char *name;
    void *function;
    bool is_tls;
} replacements[] = {
    {"write", (void *)private_write, false},
    {"read", (void *)private_read, false},
    {"pipe2", (void *)private_pipe2, false},
    {"close", (void *)private_close, false},
    {"syscall", (void *)private_syscall, false},
    {"__tls_get_addr", (void *)private_tls_get_addr, true},
};

// --- its import table ---------------------------------------------------------------------------

#if defined(__x86_64__)
enum {
    SLOT_LAZY = R_X86_64_JUMP_SLOT,
    SLOT_EAGER = R_X86_64_GLOB_DAT
};
#elif defined(__aarch64__)
enum {
    SLOT_LAZY = R_AARCH64_JUMP_SLOT,
    SLOT_EAGER = R_AARCH64_GLOB_DAT
};
#endif

struct image {
    const struct link_map *map;
    const char *strings;
    const ElfW(Sym) * symbols;
    const ElfW(Rela) * plt, *rela;
    size_t plt_count, rela_count;
    bool tls_is_zero; // its thread-local variables fit ours and start out as zero
};

static struct image image_of(const struct link_map *map) {
    struct image image = {.map = map};
    for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        // glibc has relocated these pointers (elf/get-dynamic-info.h).
        switch (d->d_tag) {
        case DT_STRTAB:
            image.strings = (const char *)d->d_un.d_ptr;
            break;
        case DT_SYMTAB:
            image.symbols = (const ElfW(Sym) *)d->d_un.d_ptr;
            break;
        case DT_JMPREL:
            image.plt = (const ElfW(Rela) *)d->d_un.d_ptr;
            break;
        case DT_PLTRELSZ:
            image.plt_count = d->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_RELA:
            image.rela = (const ElfW(Rela) *)d->d_un.d_ptr;
            break;
        case DT_RELASZ:
            image.rela_count = d->d_un.d_val / sizeof(ElfW(Rela));
            break;
        default:
            break;
        }
    }
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)map->l_addr;
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)(map->l_addr + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++)
        if (segment[i].p_type == PT_TLS)
            image.tls_is_zero = segment[i].p_memsz <= TLS_BYTES && segment[i].p_filesz == 0;
    return image;
}

static bool store_slot(void **slot, void *value) {
    // Under full RELRO the table is read-only by now. The page is libunwind's alone.
    char *page = (char *)((uintptr_t)slot & ~(uintptr_t)(PAGE_BYTES - 1));
    if (sys_mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE) < 0)
        return false;
    *slot = value;
    return true;
}

static bool redirect(const struct image *image, const ElfW(Rela) * entry, size_t count) {
    for (size_t i = 0; entry && i < count; i++) {
        unsigned long type = ELF64_R_TYPE(entry[i].r_info);
        if (type != SLOT_LAZY && type != SLOT_EAGER)
            continue;
        const ElfW(Sym) *symbol = &image->symbols[ELF64_R_SYM(entry[i].r_info)];
        const char *name = image->strings + symbol->st_name;
        for (size_t r = 0; r < sizeof replacements / sizeof *replacements; r++) {
            if (strcmp(name, replacements[r].name) != 0 ||
                (replacements[r].is_tls && !image->tls_is_zero))
                continue;
            void **slot = (void **)(image->map->l_addr + entry[i].r_offset);
            if (!store_slot(slot, replacements[r].function))
                return false;
        }
    }
    return true;
}

static const char *load(void) {
    void *library = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return "libunwind.so.8 cannot be loaded: stacks are one frame deep";
    void *function = dlsym(library, "unw_backtrace");
    struct link_map *map = NULL;
    if (!function || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0)
        return "libunwind.so.8 has no unw_backtrace: stacks are one frame deep";
    struct image image = image_of(map);
    if (!redirect(&image, image.plt, image.plt_count) ||
        !redirect(&image, image.rela, image.rela_count))
        return "libunwind.so.8 cannot be isolated from the program: stacks are one frame deep";
    unw_backtrace_function = (int (*)(void **, int))function;
    return "";
}

// --- the interface ------------------------------------------------------------------------------

bool unwinder_ready(void) {
    int now = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
    if (LIKELY(now == LOADED))
        return true;
    if (now == NOT_LOADED && __atomic_compare_exchange_n(&state, &now, LOADING, false,
                                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        int saved_errno = errno;
        guard_enter();
        problem = load();
        guard_leave();
        errno = saved_errno;
        __atomic_store_n(&state, problem[0] ? FAILED : LOADED, __ATOMIC_RELEASE);
    }
    // Another thread loads, and may need the loader's lock that this thread holds (a socket opened
    // by a plugin's constructor): wait, but not for ever. This thread may also be the loader
    // itself.
    for (int ms = 0; ms < LOAD_WAIT_MS && !guard_held(); ms++) {
        now = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
        if (now != LOADING)
            break;
        sys_sleep_ms(1);
    }
    return __atomic_load_n(&state, __ATOMIC_ACQUIRE) == LOADED;
}

int unwinder_backtrace(void **out, int max) {
    int saved_errno = errno;
    int depth = unw_backtrace_function(out, max);
    errno = saved_errno;
    return depth < 0 ? 0 : depth;
}

const char *unwinder_problem(void) {
    return problem;
}

void unwinder_continue_in_child(void) {
    int loading = LOADING;
    __atomic_compare_exchange_n(&state, &loading, NOT_LOADED, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
}
