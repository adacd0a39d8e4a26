#include "ledger/backing.h"
#include "base/format.h"
#include "base/process.h"
#include "base/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    NAME_TRIES = 64
};

int backing_reserve_private(struct backing *out, size_t bytes) {
    // PROT_NONE: counted neither as committed memory nor, under mlockall(MCL_FUTURE), made present.
    void *base =
        sys_mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sys_failed(base))
        return (int)(intptr_t)base;
    // One record must not cost a huge page.
    sys_madvise(base, bytes, MADV_NOHUGEPAGE);
    *out = (struct backing){.base = base, .bytes = bytes};
    return 0;
}

static int open_new_file(const char *dir, char *path, size_t path_bytes) {
    for (unsigned attempt = 1; attempt <= NAME_TRIES; attempt++) {
        struct text_buffer name = text_buffer(path, path_bytes);
        text_string(&name, dir);
        text_string(&name, "/");
        text_decimal(&name, (uint64_t)sys_getpid());
        text_string(&name, "-");
        text_decimal(&name, process_start_time_ticks());
        if (attempt > 1) {
            text_string(&name, "-");
            text_decimal(&name, attempt);
        }
        text_string(&name, ".ledger");
        if (name.truncated)
            return -ENAMETOOLONG;
        int fd =
            sys_openat(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd != -EEXIST)
            return fd;
    }
    return -EEXIST;
}

static bool file_size_is_limited(size_t bytes) {
    struct rlimit limit;
    long result = sys_call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)&limit, 0, 0);
    return result == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < bytes;
}

int backing_reserve_file(struct backing *out, size_t bytes, const char *dir) {
    *out = (struct backing){0};
    if (file_size_is_limited(bytes))
        return -EFBIG;
    struct backing file = {.bytes = bytes, .is_file = true};
    int fd = open_new_file(dir, file.path, sizeof file.path);
    if (fd < 0)
        return fd;
    int error = (int)sys_call(SYS_ftruncate, fd, (long)bytes, 0, 0, 0, 0);
    void *base = NULL;
    if (error == 0) {
        base = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        error = sys_failed(base) ? (int)(intptr_t)base : 0;
    }
    sys_close(fd);
    if (error < 0) {
        sys_call(SYS_unlinkat, AT_FDCWD, (long)file.path, 0, 0, 0, 0);
        return error;
    }
    // A core dump or a fork's copy of the whole reserve helps nobody.
    sys_madvise(base, bytes, MADV_DONTDUMP);
    file.base = base;
    *out = file;
    return 0;
}

// Needs no descriptor, so it also works after a chroot or a change of user: the pages are populated
// through the mapping, and the kernel answers with an error where a store would raise SIGBUS
// (madvise(2), MADV_POPULATE_WRITE, Linux 5.14). Before that, by the file's name.
static int commit_file(const struct backing *backing, size_t from, size_t to) {
    int error = sys_madvise(backing->base + from, to - from, MADV_POPULATE_WRITE);
    if (error != -EINVAL)
        return error;
    int fd = sys_openat(AT_FDCWD, backing->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    error = (int)sys_call(SYS_fallocate, fd, 0, (long)from, (long)(to - from), 0, 0);
    sys_close(fd);
    return error;
}

int backing_commit(const struct backing *backing, size_t from, size_t to) {
    if (backing->is_file)
        return commit_file(backing, from, to);
    return sys_mprotect(backing->base + from, to - from, PROT_READ | PROT_WRITE);
}

void backing_discard(struct backing *backing) {
    sys_munmap(backing->base, backing->bytes);
    if (backing->is_file)
        sys_call(SYS_unlinkat, AT_FDCWD, (long)backing->path, 0, 0, 0, 0);
    *backing = (struct backing){0};
}

int backing_replace(struct backing *old, struct backing *fresh) {
    long moved = sys_call(SYS_mremap, (long)fresh->base, (long)fresh->bytes, (long)fresh->bytes,
                          MREMAP_MAYMOVE | MREMAP_FIXED, (long)old->base, 0);
    if (sys_failed((void *)moved))
        return (int)moved;
    char *base = old->base;
    *old = *fresh;
    old->base = base;
    return 0;
}
