#include "track/programs.h"
#include "base/clock.h"
#include "base/format.h"
#include "base/options.h"
#include "base/readable.h"
#include "base/sys.h"
#include "ledger/mark_format.h"
#include "track/tracker.h"
#include "track/without_file.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
    MARK_TRIES = 64,
    MARK_NAME_BYTES = OPTION_TEXT_BYTES + 48,
    PATH_BYTES = 1024 // of a candidate in PATH; a longer one is not looked at
};

static bool is_marking(void) {
    return options.ledger_dir[0] && !owner_is_sandboxed();
}

// --- marks --------------------------------------------------------------------------------------

static bool name_mark(char *memory, size_t bytes, pid_t pid, uint32_t number) {
    struct text_buffer name = text_buffer(memory, bytes);
    text_string(&name, options.ledger_dir);
    text_string(&name, "/" MARK_UNWATCHED);
    text_decimal(&name, (uint64_t)pid);
    text_string(&name, "-");
    text_decimal(&name, number);
    return !name.truncated;
}

// Returns the mark's number, or 0 where it cannot be made: after a chroot, on a full disk.
static uint32_t leave_mark(const struct program *program, pid_t pid) {
    char name[MARK_NAME_BYTES], text[PROGRAM_NAME_BYTES + 16];
    struct text_buffer target = text_buffer(text, sizeof text);
    text_decimal(&target, (uint64_t)program->problem);
    text_string(&target, " ");
    text_string(&target, program->exe);
    for (uint32_t number = 1; number <= MARK_TRIES; number++) {
        if (!name_mark(name, sizeof name, pid, number))
            return 0;
        long error = sys_call(SYS_symlinkat, (long)text, AT_FDCWD, (long)name, 0, 0, 0);
        if (error != -EEXIST)
            return error < 0 ? 0 : number;
    }
    return 0;
}

static void remove_mark(uint32_t number) {
    char name[MARK_NAME_BYTES];
    if (name_mark(name, sizeof name, sys_getpid(), number))
        sys_call(SYS_unlinkat, AT_FDCWD, (long)name, 0, 0, 0, 0);
}

// --- its environment ----------------------------------------------------------------------------

enum {
    ENVIRONMENT_PAGE_BYTES = 4096 // or a multiple
};

static uintptr_t page_of(const void *at) {
    return (uintptr_t)at & ~(uintptr_t)(ENVIRONMENT_PAGE_BYTES - 1);
}

// To its NUL. *page is the one that was asked for last.
static bool is_readable_string(const char *text, uintptr_t *page) {
    for (;;) {
        if (page_of(text) != *page && !readable(text, 1))
            return false;
        *page = page_of(text);
        size_t left = ENVIRONMENT_PAGE_BYTES - (size_t)((uintptr_t)text - *page);
        if (memchr(text, '\0', left))
            return true;
        text += left;
    }
}

// A pointer that the program hands to the kernel may be wrong, and then it is the kernel's to say
// so. Its own environment is good: getenv reads that, too.
static bool is_readable_list(char *const *list) {
    uintptr_t pointers = 1, strings = 1;
    for (;; list++) {
        if (page_of(list) != pointers && !readable(list, sizeof *list))
            return false;
        pointers = page_of(list);
        if (!*list)
            return true;
        if (!is_readable_string(*list, &strings))
            return false;
    }
}

static const char *variable(char *const *environment, const char *name) {
    size_t len = strlen(name);
    for (; *environment; environment++)
        if (strncmp(*environment, name, len) == 0 && (*environment)[len] == '=')
            return *environment + len + 1;
    return NULL;
}

// Whether the dynamic linker will find the library where LD_PRELOAD has it, which it splits at
// blanks and colons: not below another root directory, or for a user who may not read it.
static bool is_visible(const char *preload) {
    char path[PATH_BYTES];
    const char *end = strstr(preload, "libsockleak.so");
    const char *begin = end;
    while (begin > preload && begin[-1] != ':' && begin[-1] != ' ')
        begin--;
    size_t len = (size_t)(end - begin) + strcspn(end, ": ");
    if (*begin != '/' || len >= sizeof path)
        return true; // found by the linker's own search
    memcpy(path, begin, len);
    path[len] = '\0';
    int fd = sys_openat(AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
    if (fd >= 0)
        sys_close(fd);
    return fd >= 0 || fd == -EMFILE || fd == -ENFILE;
}

static enum program_problem look_at_environment(char *const *environment) {
    if (!environment)
        return PROGRAM_NOT_PRELOADED;
    if (environment != environ && !is_readable_list(environment))
        return PROGRAM_FINE; // the exec will fail
    const char *preload = variable(environment, "LD_PRELOAD");
    if (!preload || !strstr(preload, "libsockleak.so"))
        return PROGRAM_NOT_PRELOADED;
    if (!is_visible(preload))
        return PROGRAM_LIBRARY_HIDDEN;
    const char *text = variable(environment, "SOCKLEAK_OPTIONS");
    return text && strstr(text, "ledger_dir=") ? PROGRAM_FINE : PROGRAM_NO_LEDGER_DIR;
}

// --- its file -----------------------------------------------------------------------------------

// What execvp does with a file that the kernel has no loader for.
static int look_or_shell(const char *path, enum program_problem otherwise, struct program *out) {
    int error = program_look(AT_FDCWD, path, otherwise, out);
    return error == -ENOEXEC ? program_look(AT_FDCWD, "/bin/sh", otherwise, out) : error;
}

// execvpe(3) of glibc: the first in PATH that can be executed; an empty element is the current
// directory.
static NOINLINE int search(const char *name, enum program_problem otherwise, struct program *out) {
    const char *directories = environ ? variable(environ, "PATH") : NULL;
    if (!directories)
        directories = "/bin:/usr/bin"; // confstr(_CS_PATH)
    for (size_t len;; directories += len + 1) {
        char memory[PATH_BYTES];
        struct text_buffer path = text_buffer(memory, sizeof memory);
        len = strcspn(directories, ":");
        text_bytes(&path, directories, len);
        text_string(&path, len ? "/" : "");
        text_string(&path, name);
        if (!path.truncated) {
            int error = look_or_shell(memory, otherwise, out);
            if (error == 0)
                return 0;
        }
        if (!directories[len])
            return -ENOENT;
    }
}

static int look_at_open_file(int fd, enum program_problem otherwise, struct program *out) {
    char memory[32];
    struct text_buffer path = text_buffer(memory, sizeof memory);
    text_string(&path, "/proc/self/fd/");
    text_signed(&path, fd);
    return program_look(AT_FDCWD, memory, otherwise, out);
}

static int look(const struct program_call *call, struct program *out) {
    enum program_problem otherwise = look_at_environment(call->environment);
    if ((call->flags & AT_EMPTY_PATH) && readable(call->path, 1) && !call->path[0])
        return look_at_open_file(call->dir, otherwise, out);
    if (call->search == SEARCH_NOTHING)
        return program_look(call->dir, call->path, otherwise, out);
    return strchr(call->path, '/') ? look_or_shell(call->path, otherwise, out)
                                   : search(call->path, otherwise, out);
}

// --- the ledger ---------------------------------------------------------------------------------

// Which sockets an exec closes: asked now, since afterwards nobody can be.
static void note_what_stays(void) {
    for (int fd = 0, limit = ledger_fd_limit(); fd < limit; fd++) {
        uint32_t number = ledger_fd(fd) ? ledger_fd_hold(fd) : 0;
        if (number == 0)
            continue;
        struct ledger_snapshot *snapshot = &ledger_record(number)->snapshot;
        long flags = sys_call(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0);
        if (flags >= 0) {
            if (flags & FD_CLOEXEC)
                snapshot->properties &= (uint16_t)~PROPERTY_NO_CLOEXEC;
            else
                snapshot->properties |= PROPERTY_NO_CLOEXEC;
            snapshot->properties_known |= PROPERTY_NO_CLOEXEC;
        }
        ledger_release(number);
    }
}

// Only a file outlives the exec. The ledger of a child that ran no atfork handler may be its
// parent's.
static uint64_t note_exec(void) {
    if (!tracker_active() || owner_was_forked() || !ledger_is_file())
        return 0;
    note_what_stays();
    uint64_t now_ns = clock_now_ns();
    __atomic_store_n(&ledger.header->exec_ns, now_ns, __ATOMIC_RELEASE);
    return now_ns;
}

// --- exec and spawn -----------------------------------------------------------------------------

struct program_exec program_exec_begin(const struct program_call *call) {
    struct program_exec exec = {0};
    struct program program;
    if (LIKELY(!is_marking()))
        return exec;
    if (look(call, &program) == 0 && program.problem != PROGRAM_FINE)
        exec.mark = leave_mark(&program, sys_getpid());
    exec.began_ns = note_exec();
    exec.told_without_file = tracker_active() && !owner_was_forked() && without_file_execs();
    return exec;
}

void program_exec_failed(const struct program_exec *exec) {
    uint64_t began_ns = exec->began_ns;
    if (exec->mark)
        remove_mark(exec->mark);
    without_file_exec_failed(exec->told_without_file);
    // Not where another thread has begun one meanwhile.
    if (began_ns)
        __atomic_compare_exchange_n(&ledger.header->exec_ns, &began_ns, 0, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
}

void program_spawn_begin(const struct program_call *call, bool moves, struct program *out) {
    out->problem = PROGRAM_FINE;
    tracker_note_fork();
    if (LIKELY(!is_marking()))
        return;
    int error = look(call, out);
    if (error == 0 || error == -EFAULT || !moves)
        return;
    // Found from where the child will be, or nowhere: then there will be no child.
    out->problem = PROGRAM_UNREADABLE;
    size_t len = strnlen(call->path, sizeof out->exe - 1);
    memcpy(out->exe, call->path, len);
    out->exe[len] = '\0';
}

void program_spawn_done(const struct program *program, pid_t pid) {
    if (program->problem != PROGRAM_FINE && pid >= 0)
        leave_mark(program, pid);
}
