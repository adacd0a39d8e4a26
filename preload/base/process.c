#include "base/process.h"
#include "base/format.h"
#include "base/sys.h"
#include "base/valgrind.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>

long process_read_file(const char *path, char *out, size_t size_bytes) {
    int fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
    if (fd < 0)
        return fd;
    size_t len = 0;
    long n = 1;
    while (len < size_bytes && n > 0) {
        n = sys_read(fd, out + len, size_bytes - len);
        if (n > 0)
            len += (size_t)n;
        else if (n == -EINTR)
            n = 1;
    }
    sys_close(fd);
    return n < 0 ? n : (long)len;
}

long process_read_thread_file(uint32_t tid, const char *name, char *out, size_t size_bytes) {
    char path[64];
    struct text_buffer text = text_buffer(path, sizeof path);
    text_string(&text, "/proc/self/task/");
    text_decimal(&text, tid);
    text_string(&text, "/");
    text_string(&text, name);
    return process_read_file(path, out, size_bytes);
}

enum {
    STAT_BYTES = 512
};

// A number in a stat file of proc(5), of which `len` bytes were read; 0 where it is not known.
static uint64_t stat_field(const char *stat, long len, int number) {
    if (len <= 0)
        return 0;
    // Field 2 is the command in parentheses, and may hold anything: count from the last one.
    const char *end = stat + len;
    const char *at = memrchr(stat, ')', (size_t)len);
    for (int field = 2; at && field < number; field++) {
        at = memchr(at, ' ', (size_t)(end - at));
        at = at ? at + 1 : NULL;
    }
    const char *stop = at ? memchr(at, ' ', (size_t)(end - at)) : NULL;
    uint64_t value = 0;
    return stop && text_parse(at, stop, UINT64_MAX, &value) ? value : 0;
}

uint64_t process_start_time_ticks(void) {
    char stat[STAT_BYTES];
    return stat_field(stat, process_read_file("/proc/self/stat", stat, sizeof stat), 22);
}

void process_exe(char *out, size_t size_bytes) {
    // Where the first thread has ended, only the first of these is there; before Linux 3.17 the
    // second. And valgrind answers for the second as if the program ran without it.
    long len = sys_readlinkat(AT_FDCWD, "/proc/thread-self/exe", out, size_bytes - 1);
    if (len <= 0)
        len = sys_readlinkat(AT_FDCWD, "/proc/self/exe", out, size_bytes - 1);
    out[len > 0 ? len : 0] = '\0';
}

// --- a program that another one runs -------------------------------------------------------------

static const char *parse_hex(const char *at, const char *end, uint64_t *out) {
    *out = 0;
    for (; at < end; at++) {
        unsigned digit = (unsigned char)*at;
        digit = digit - '0' < 10 ? digit - '0' : digit - 'a' < 6 ? digit - 'a' + 10 : 16;
        if (digit == 16)
            break;
        *out = *out << 4 | digit;
    }
    return at;
}

struct mapped_file {
    uint64_t address;
    char *path;
    size_t path_bytes;
};

// A line of maps, as proc(5) has it: "FROM-TO perms offset device inode   PATH", or as much of it
// as there was room for. True where it is the one of the address: then the path is taken, if it is
// there as a whole.
static bool take_mapping(const char *line, const char *end, bool is_whole,
                         const struct mapped_file *file) {
    uint64_t from, to;
    const char *at = parse_hex(line, end, &from);
    at = parse_hex(at < end ? at + 1 : end, end, &to);
    if (file->address < from || file->address >= to)
        return false;
    const char *path = memmem(at, (size_t)(end - at), " /", 2); // nothing else there begins so
    size_t len = path ? (size_t)(end - ++path) : 0;
    if (path && is_whole && len < file->path_bytes) {
        memcpy(file->path, path, len);
        file->path[len] = '\0';
    }
    return true;
}

static void find_mapping(int fd, const struct mapped_file *file) {
    char text[1024] = {0};
    size_t len = 0;
    bool is_rest = false; // of a line that was too long, and was looked at
    for (long n = 1; n > 0 || n == -EINTR;) {
        n = sys_read(fd, text + len, sizeof text - len);
        len += n > 0 ? (size_t)n : 0;
        char *line = text, *end;
        for (; (end = memchr(line, '\n', len)); line = end + 1) {
            if (!is_rest && take_mapping(line, end, true, file))
                return;
            is_rest = false;
            len -= (size_t)(end + 1 - line);
        }
        memmove(text, line, len);
        if (len < sizeof text)
            continue;
        if (!is_rest && take_mapping(text, text + len, false, file))
            return;
        is_rest = true;
        len = 0;
    }
}

void process_launched(char *out, size_t size_bytes) {
    out[0] = '\0';
    // The kernel has loaded no interpreter where the interpreter is what was executed.
    if (getauxval(AT_BASE) != 0 && !valgrind_runs())
        return;
    int fd = sys_openat(AT_FDCWD, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
    if (fd < 0)
        return;
    // The program's: the linker sees to that.
    find_mapping(fd, &(struct mapped_file){getauxval(AT_PHDR), out, size_bytes});
    sys_close(fd);
}

int process_has_thread(uint32_t tid) {
    return sys_call(SYS_tgkill, sys_getpid(), (long)tid, 0, 0, 0, 0) == 0;
}

bool process_thread_runs(uint32_t tid) {
    enum {
        PF_EXITING = 0x4 // include/linux/sched.h
    };
    char stat[STAT_BYTES];
    if (!process_has_thread(tid))
        return false;
    long len = process_read_thread_file(tid, "stat", stat, sizeof stat);
    return !(stat_field(stat, len, 9) & PF_EXITING);
}
