// Backtraces by libunwind, kept apart from the program, and right where the program changes.
//
// By facts about libunwind 1.6.2 (Debian 12). Its own import table leads to functions of ours.
// - It exports _Unwind_* and backtrace. As a dependency of a preloaded library it would take over
//   the program's exception handling. So it is opened with dlopen, RTLD_LOCAL.
// - To find out whether an address can be read (x86_64/Ginit.c: write_validate) it keeps a pipe in
//   the program, reads a byte from it and writes one to it. A daemon that closes all descriptors
//   then gets those numbers for its own sockets, and loses and gains bytes. So there is no pipe.
// - Its first backtrace on each thread mallocs, by way of __tls_get_addr, for 16 bytes of
//   thread-local variables. A signal handler that accepts while malloc's lock is held would hang.
//   So they are in static TLS of ours.
// - It looks modules up by dl_iterate_phdr and locks mutexes. Both hang for ever in the child of a
//   fork at which another thread held them: glibc gives the child its loader's lock as it was. So
//   it asks _dl_find_object, and a fork opens its locks.
// - It remembers what it found at a pc, for all threads and for each, until it is told to forget.
//
// A program may use libunwind itself. There is one instance then, and it is the program's: what is
// ours holds under the guard, and outside of it libunwind does what it does bare, without the pipe.
#include "base/guard.h"
#include "base/readable.h"
#include "base/sys.h"
#include "track/fast_unwind.h"
#include "track/imports.h"
#include "track/modules.h"
#include "track/unwinder.h"
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// glibc 2.35. Weak, so that the library also loads with an older one.
#ifdef DLFO_STRUCT_HAS_EH_DBASE
extern int _dl_find_object(void *address, struct dl_find_object *result) __attribute__((weak));
#endif

#if defined(__x86_64__)
#define UNW_FLUSH_CACHE "_Ux86_64_flush_cache"
#define UNW_LOCAL_ADDR_SPACE "_ULx86_64_local_addr_space"
#elif defined(__aarch64__)
#define UNW_FLUSH_CACHE "_Uaarch64_flush_cache"
#define UNW_LOCAL_ADDR_SPACE "_ULaarch64_local_addr_space"
#endif

enum {
    LOAD_WAIT_MS = 50,
    TLS_BYTES = 64
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
static void (*unw_flush_cache_function)(void *, unsigned long, unsigned long);
static void **unw_local_addr_space;

static THREAD_LOCAL char libunwind_tls[TLS_BYTES] __attribute__((aligned(16)));

// --- what libunwind calls instead of libc: descriptors ------------------------------------------

// The result of a system call, as libc gives it.
static long libc_result(long result) {
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

// The pipe has no descriptors, but a program that used libunwind before us has a real one. While we
// capture no file is opened (private_open), so all descriptors are the pipe's.
static bool is_the_pipe(int fd) {
    return fd < 0 || guard_held();
}

static ssize_t private_write(int fd, const void *buffer, size_t len_bytes) {
    if (!is_the_pipe(fd))
        return libc_result(sys_write(fd, buffer, len_bytes));
    return readable(buffer, len_bytes) ? (ssize_t)len_bytes : libc_result(-EFAULT);
}

static ssize_t private_read(int fd, void *buffer, size_t len_bytes) {
    if (!is_the_pipe(fd))
        return libc_result(sys_read(fd, buffer, len_bytes));
    return libc_result(-EAGAIN); // an empty, healthy pipe
}

static int private_pipe2(int fds[2], int flags) {
    (void)flags;
    fds[0] = fds[1] = -1;
    return 0;
}

static int private_close(int fd) {
    return is_the_pipe(fd) ? 0 : (int)libc_result(sys_close(fd));
}

// It looks for a .debug_frame in the file where a module has no .eh_frame. Our own backtraces do
// without: no descriptor of ours in the program. Never called to create a file: there is no mode.
static int private_open(const char *path, int flags) {
    return (int)libc_result(guard_held() ? -ENOENT : sys_openat(AT_FDCWD, path, flags, 0));
}

static long private_syscall(long number, long a, long b, long c, long d, long e, long f) {
    if (number == SYS_write)
        return private_write((int)a, (const void *)b, (size_t)c);
    if (number == SYS_read)
        return private_read((int)a, (void *)b, (size_t)c);
    if (number == SYS_close)
        return private_close((int)a);
    if (number == SYS_pipe2)
        return private_pipe2((int *)a, (int)b); // NOLINT(performance-no-int-to-ptr)
    return libc_result(sys_call(number, a, b, c, d, e, f));
}

// --- locks that a fork opens --------------------------------------------------------------------

// The first word of the mutex is how often the process was forked when it was locked, and glibc's
// own states of a lock (lowlevellock.h). So 0, as initialised, is free, and a lock that was taken
// before we came can be given back here.
enum {
    LOCK_FREE,
    LOCK_HELD,
    LOCK_AWAITED,
    LOCK_STATES // a power of two
};

static unsigned forks;

static int private_mutex_lock(pthread_mutex_t *mutex) {
    unsigned *word = (unsigned *)mutex;
    unsigned wanted = LOCK_HELD;
    for (;;) {
        unsigned now = __atomic_load_n(word, __ATOMIC_RELAXED);
        unsigned base = __atomic_load_n(&forks, __ATOMIC_RELAXED) * LOCK_STATES;
        unsigned lock_state = now - base;
        if (lock_state != LOCK_HELD && lock_state != LOCK_AWAITED) {
            // Free, or held by a thread that is not in this process.
            if (__atomic_compare_exchange_n(word, &now, base + wanted, false, __ATOMIC_ACQUIRE,
                                            __ATOMIC_RELAXED))
                return 0;
        } else if (lock_state == LOCK_AWAITED ||
                   __atomic_compare_exchange_n(word, &now, base + LOCK_AWAITED, false,
                                               __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            sys_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, base + LOCK_AWAITED, 0, 0, 0);
            wanted = LOCK_AWAITED; // others may wait still
        }
    }
}

static int private_mutex_unlock(pthread_mutex_t *mutex) {
    unsigned was = __atomic_exchange_n((unsigned *)mutex, LOCK_FREE, __ATOMIC_RELEASE);
    if (was % LOCK_STATES == LOCK_AWAITED)
        sys_call(SYS_futex, (long)mutex, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    return 0;
}

// --- modules without the loader's lock ----------------------------------------------------------

typedef int phdr_callback(struct dl_phdr_info *, size_t, void *);

// It asks in one place, for the module of one address, which `wanted` begins with (struct
// dwarf_callback_data, dwarf/Gfind_proc_info-lsb.c). Of that module it reads what stands here.
static int private_dl_iterate_phdr(phdr_callback *callback, void *wanted) {
#ifdef DLFO_STRUCT_HAS_EH_DBASE
    if (_dl_find_object && guard_held()) {
        struct dl_find_object object;
        if (_dl_find_object(*(void **)wanted, &object) != 0)
            return 0;
        const struct link_map *map = object.dlfo_link_map;
        uint64_t start = (uint64_t)(uintptr_t)object.dlfo_map_start;
        uint64_t bytes = (uint64_t)(uintptr_t)object.dlfo_map_end - start;
        const ElfW(Phdr) segments[] = {
            {.p_type = PT_LOAD,
             .p_vaddr = start - map->l_addr,
             .p_memsz = bytes,
             .p_filesz = bytes},
            {.p_type = PT_DYNAMIC, .p_vaddr = (uint64_t)(uintptr_t)map->l_ld - map->l_addr},
            {.p_type = object.dlfo_eh_frame ? PT_GNU_EH_FRAME : PT_NULL,
             .p_vaddr = (uint64_t)(uintptr_t)object.dlfo_eh_frame - map->l_addr},
        };
        struct dl_phdr_info info = {.dlpi_addr = map->l_addr,
                                    .dlpi_name = map->l_name,
                                    .dlpi_phdr = segments,
                                    .dlpi_phnum = sizeof segments / sizeof *segments};
        return callback(&info, sizeof info, wanted);
    }
#endif
    return dl_iterate_phdr(callback, wanted);
}

// --- thread-local variables ---------------------------------------------------------------------

struct tls_index {
    unsigned long module, offset;
};

static void *private_tls_get_addr(const struct tls_index *index) {
    return libunwind_tls + index->offset;
}

// Where each thread's cache of pcs is kept, and what frees it when the thread ends. Unknown where
// the program used libunwind before us.
static pthread_key_t trace_cache_key;
static void (*trace_cache_free)(void *);

static int private_key_create(pthread_key_t *key, void (*destructor)(void *)) {
    int result = pthread_key_create(key, destructor);
    if (result == 0) {
        trace_cache_key = *key;
        __atomic_store_n(&trace_cache_free, destructor, __ATOMIC_RELEASE);
    }
    return result;
}

// --- its import table ---------------------------------------------------------------------------

static const struct {
    const char *name;
    void *function;
    bool is_tls;
} replacements[] = {
    {"write", (void *)private_write, false},
    {"read", (void *)private_read, false},
    {"pipe2", (void *)private_pipe2, false},
    {"open", (void *)private_open, false},
    {"open64", (void *)private_open, false},
    {"close", (void *)private_close, false},
    {"syscall", (void *)private_syscall, false},
    {"pthread_mutex_lock", (void *)private_mutex_lock, false},
    {"pthread_mutex_unlock", (void *)private_mutex_unlock, false},
    {"pthread_key_create", (void *)private_key_create, false},
    {"dl_iterate_phdr", (void *)private_dl_iterate_phdr, false},
    {"__tls_get_addr", (void *)private_tls_get_addr, true},
};

static bool isolate(const struct link_map *map) {
    bool tls_fits = imports_tls_is_zero(map, TLS_BYTES);
    for (size_t i = 0; i < sizeof replacements / sizeof *replacements; i++)
        if ((!replacements[i].is_tls || tls_fits) &&
            imports_redirect(map, replacements[i].name, replacements[i].function) < 0)
            return false;
    return true;
}

static const char *load(void) {
    void *library = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return "libunwind.so.8 cannot be loaded: stacks are one frame deep";
    void *function = dlsym(library, "unw_backtrace");
    void *flush = dlsym(library, UNW_FLUSH_CACHE);
    unw_local_addr_space = dlsym(library, UNW_LOCAL_ADDR_SPACE);
    struct link_map *map = NULL;
    if (!function || !flush || !unw_local_addr_space || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0)
        return "libunwind.so.8 has no unw_backtrace: stacks are one frame deep";
    if (!isolate(map))
        return "libunwind.so.8 cannot be isolated from the program: stacks are one frame deep";
    unw_backtrace_function = (int (*)(void **, int))function;
    unw_flush_cache_function = (void (*)(void *, unsigned long, unsigned long))flush;
    return "";
}

// --- forgetting ---------------------------------------------------------------------------------

// The count of dlclose at which what libunwind remembers for all threads was last thrown away, and
// for this thread. At first a program that uses libunwind may have filled the former.
static uint64_t shared_cache_unloads = UINT64_MAX;
static THREAD_LOCAL uint64_t own_cache_unloads;

static void forget_shared(void) {
    unw_flush_cache_function(*unw_local_addr_space, 0, 0);
}

// Ends the thread's cache as its end would do. libunwind 1.6 puts itself off there, to be the last
// of all destructors: PTHREAD_DESTRUCTOR_ITERATIONS - 1 times.
static void forget_own(void) {
    void (*destroy)(void *) = __atomic_load_n(&trace_cache_free, __ATOMIC_ACQUIRE);
    void *cache = destroy ? pthread_getspecific(trace_cache_key) : NULL;
    if (destroy && !cache)
        return; // none yet, or the thread has ended it
    for (int i = 0; cache && i < PTHREAD_DESTRUCTOR_ITERATIONS; i++) {
        pthread_setspecific(trace_cache_key, NULL);
        destroy(cache);
        cache = pthread_getspecific(trace_cache_key);
    }
    // It says "destroyed", which here is not the end. Where there is no way to free the cache (the
    // program used libunwind before us) it stays allocated until the process ends.
    memset(libunwind_tls, 0, sizeof libunwind_tls);
}

// After a dlclose another file may be at the addresses that libunwind knows. Before ours is done
// with it another thread may do the same: harmless.
static void forget_unloaded(void) {
    uint64_t unloads = module_unloads();
    if (UNLIKELY(__atomic_load_n(&shared_cache_unloads, __ATOMIC_ACQUIRE) != unloads)) {
        forget_shared();
        __atomic_store_n(&shared_cache_unloads, unloads, __ATOMIC_RELEASE);
    }
    if (UNLIKELY(own_cache_unloads != unloads)) {
        own_cache_unloads = unloads;
        forget_own();
    }
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
        if (problem[0])
            dlerror(); // the message is not for the program, which may ask for one of its own
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

// Where a caller goes on. On aarch64 libunwind stores the address of the byte before instead
// (aarch64/Gtrace.c, tdep_trace: pc - use_prev_instr), except for what a signal interrupted. There
// an instruction is 4 bytes, at a multiple of 4.
static void *return_address(void *stored) {
#if defined(__aarch64__)
    enum {
        INSTRUCTION_BYTES = 4
    };
    uintptr_t pc = (uintptr_t)stored + INSTRUCTION_BYTES - 1;
    return (void *)(pc & ~(uintptr_t)(INSTRUCTION_BYTES - 1)); // NOLINT(performance-no-int-to-ptr)
#else
    return stored;
#endif
}

static COLD int backtrace_by_libunwind(void **out, int max) {
    int saved_errno = errno;
    forget_unloaded();
    int depth = unw_backtrace_function(out, max);
    for (int i = 0; i < depth; i++)
        out[i] = return_address(out[i]);
    errno = saved_errno;
    return depth < 0 ? 0 : depth;
}

// Not inlined, so that libunwind's list has this function's caller in it.
NOINLINE int unwinder_backtrace(void **out, int max) {
    struct fast_start start;
    bool learn;
    FAST_START(start);
    const void *caller = CALLER;
    int depth = fast_backtrace(&start, out, max, module_unloads(), &learn);
    if (LIKELY(depth))
        return depth;
    depth = backtrace_by_libunwind(out, max);
    for (int i = 0; learn && i < depth; i++) {
        if (out[i] != caller)
            continue;
        fast_learn(&start, out + i, depth - i, max - i);
        break;
    }
    return depth;
}

const char *unwinder_problem(void) {
    return problem;
}

void unwinder_continue_in_child(void) {
    int loading = LOADING;
    __atomic_compare_exchange_n(&state, &loading, NOT_LOADED, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    // Threads that are not in the child held locks, and were writing what is remembered for all.
    forks++;
    shared_cache_unloads = UINT64_MAX;
}
