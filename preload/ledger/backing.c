#include "ledger/backing.h"
#include "base/format.h"
#include "base/process.h"
#include "base/sys.h"
#include "ledger/file_system.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    NAME_TRIES = 64
};

static const struct backing_ranges *ranges_of(const struct backing *backing) {
    return &backing->ranges[__atomic_load_n(&backing->which, __ATOMIC_ACQUIRE)];
}

static struct backing whole(size_t bytes) {
    return (struct backing){.bytes = bytes, .ranges = {{.list = {{0, bytes}}, .count = 1}}};
}

// PROT_NONE: counted neither as committed memory nor, under mlockall(MCL_FUTURE), made present.
// At any address where there is no base yet.
static int map(struct backing *backing, int flags, int fd, int advice) {
    const struct backing_ranges *ranges = ranges_of(backing);
    for (unsigned i = 0; i < ranges->count; i++) {
        const struct backing_range *range = &ranges->list[i];
        char *at = backing->base ? backing->base + range->from : NULL;
        size_t bytes = range->to - range->from;
        void *mapped = sys_mmap(at, bytes, PROT_NONE, flags | MAP_NORESERVE | (at ? MAP_FIXED : 0),
                                fd, (long)range->from);
        if (sys_failed(mapped))
            return (int)(intptr_t)mapped;
        if (!at)
            backing->base = mapped;
        sys_madvise(mapped, bytes, advice);
    }
    return 0;
}

static int map_private(struct backing *backing) {
    // One record must not cost a huge page.
    return map(backing, MAP_PRIVATE | MAP_ANONYMOUS, -1, MADV_NOHUGEPAGE);
}

int backing_reserve_private(struct backing *out, size_t bytes) {
    *out = whole(bytes);
    int error = map_private(out);
    if (error < 0)
        *out = (struct backing){0};
    return error;
}

int backing_renew_private(struct backing *backing) {
    int error = map_private(backing);
    if (error < 0)
        return error;
    backing->is_file = false;
    backing->path[0] = '\0';
    backing->device = backing->inode = 0;
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

// Where the kernel does not tell, it is believed.
static bool keeps_pages(int fd) {
    struct statfs status = {0};
    return sys_call(SYS_fstatfs, fd, (long)&status, 0, 0, 0, 0) < 0 ||
           file_system_keeps_pages((long)status.f_type);
}

// In the place of what `out` is, or at any address where it has no base.
static int reserve_file(struct backing *out, const char *dir) {
    if (file_size_is_limited(out->bytes))
        return -EFBIG;
    struct backing file = *out;
    file.is_file = true;
    file.device = file.inode = 0;
    int fd = open_new_file(dir, file.path, sizeof file.path);
    if (fd < 0)
        return fd;
    struct stat status = {0};
    if (sys_fstat(fd, &status) == 0) {
        file.device = status.st_dev;
        file.inode = status.st_ino;
    }
    int error = keeps_pages(fd) ? (int)sys_call(SYS_ftruncate, fd, (long)file.bytes, 0, 0, 0, 0)
                                : -EOPNOTSUPP;
    if (error == 0) // a core dump of the whole reserve helps nobody
        error = map(&file, MAP_SHARED, fd, MADV_DONTDUMP);
    sys_close(fd);
    if (error < 0)
        backing_remove_file(&file);
    else
        *out = file;
    return error;
}

int backing_reserve_file(struct backing *out, size_t bytes, const char *dir) {
    *out = whole(bytes);
    int error = reserve_file(out, dir);
    if (error < 0)
        *out = (struct backing){0};
    return error;
}

int backing_renew_file(struct backing *backing, const char *dir) {
    return reserve_file(backing, dir);
}

// --- given back ----------------------------------------------------------------------------------

// The ranges first: a child forked between the two is to map nothing there.
bool backing_give_back(struct backing *backing, size_t from, size_t to) {
    unsigned other = !backing->which;
    struct backing_ranges *ranges = &backing->ranges[other];
    *ranges = *ranges_of(backing);
    for (unsigned i = 0; i < ranges->count; i++) {
        struct backing_range *range = &ranges->list[i];
        if (from < range->from || to > range->to || from >= to)
            continue;
        if (to < range->to && ranges->count == BACKING_RANGES_MAX)
            return false;
        if (to < range->to)
            ranges->list[ranges->count++] = (struct backing_range){to, range->to};
        range->to = from;
        __atomic_store_n(&backing->which, other, __ATOMIC_SEQ_CST);
        return sys_munmap(backing->base + from, to - from) == 0;
    }
    return false;
}

bool backing_has(const struct backing *backing, const void *address) {
    const struct backing_ranges *ranges = ranges_of(backing);
    uintptr_t offset = (uintptr_t)address - (uintptr_t)backing->base;
    for (unsigned i = 0; i < ranges->count; i++)
        if (offset >= ranges->list[i].from && offset < ranges->list[i].to)
            return true;
    return false;
}

// --- made usable ---------------------------------------------------------------------------------

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
    int error = sys_mprotect(backing->base + from, to - from, PROT_READ | PROT_WRITE);
    if (error < 0 || !__atomic_load_n(&backing->is_file, __ATOMIC_RELAXED))
        return error;
    // Where this fails the range stays writable: part of it may be what another thread committed a
    // moment ago, and nobody writes to what was not committed.
    return commit_file(backing, from, to);
}

int backing_replace(const struct backing *backing, size_t from, size_t to, bool usable) {
    if (from == to)
        return 0;
    void *at =
        sys_mmap(backing->base + from, to - from, usable ? PROT_READ | PROT_WRITE : PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (sys_failed(at))
        return (int)(intptr_t)at;
    sys_madvise(at, to - from, MADV_NOHUGEPAGE);
    return 0;
}

int backing_replace_front(const struct backing *backing, void *page, size_t bytes) {
    void *at = (void *)sys_call(SYS_mremap, (long)page, (long)bytes, (long)bytes,
                                MREMAP_MAYMOVE | MREMAP_FIXED, (long)backing->base, 0);
    return sys_failed(at) ? (int)(intptr_t)at : 0;
}

static bool own_file(const struct backing *backing, struct stat *out) {
    return backing->inode &&
           sys_call(SYS_newfstatat, AT_FDCWD, (long)backing->path, (long)out, AT_SYMLINK_NOFOLLOW,
                    0, 0) == 0 &&
           out->st_ino == backing->inode && out->st_dev == backing->device;
}

bool backing_is_cut(const struct backing *backing) {
    struct stat status = {0};
    return own_file(backing, &status) && (uint64_t)status.st_size < backing->bytes;
}

void backing_discard(struct backing *backing) {
    const struct backing_ranges *ranges = ranges_of(backing);
    for (unsigned i = 0; i < ranges->count; i++)
        sys_munmap(backing->base + ranges->list[i].from, ranges->list[i].to - ranges->list[i].from);
    if (backing->is_file)
        backing_remove_file(backing);
    *backing = (struct backing){0};
}

void backing_remove_own_file(const struct backing *backing) {
    struct stat status = {0};
    if (own_file(backing, &status))
        backing_remove_file(backing);
}

void backing_remove_file(const struct backing *backing) {
    sys_call(SYS_unlinkat, AT_FDCWD, (long)backing->path, 0, 0, 0, 0);
}
