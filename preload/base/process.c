#include "base/process.h"
#include "base/format.h"
#include "base/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

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
    // valgrind answers for the first as if the program ran without it. Where the first thread has
    // ended, only the other is there.
    long len = sys_readlinkat(AT_FDCWD, "/proc/self/exe", out, size_bytes - 1);
    if (len <= 0)
        len = sys_readlinkat(AT_FDCWD, "/proc/thread-self/exe", out, size_bytes - 1);
    out[len > 0 ? len : 0] = '\0';
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
