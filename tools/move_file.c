#include "move_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy_range(int from, int to, off_t at, off_t end) {
    char bytes[1 << 16];
    while (at < end) {
        size_t wanted = end - at < (off_t)sizeof bytes ? (size_t)(end - at) : sizeof bytes;
        ssize_t len = pread(from, bytes, wanted, at);
        if (len > 0)
            len = pwrite(to, bytes, (size_t)len, at);
        if (len < 0 && errno != EINTR)
            return -errno;
        if (len == 0)
            return 0; // it has become shorter meanwhile
        at += len > 0 ? len : 0;
    }
    return 0;
}

static int copy(int from, int to) {
    struct stat status;
    if (fstat(from, &status) < 0 || ftruncate(to, status.st_size) < 0)
        return -errno;
    off_t at = 0;
    while ((at = lseek(from, at, SEEK_DATA)) >= 0) {
        off_t end = lseek(from, at, SEEK_HOLE);
        int error = end < 0 ? -errno : copy_range(from, to, at, end);
        if (error < 0)
            return error;
        at = end;
    }
    return errno == ENXIO ? 0 : -errno; // ENXIO: nothing but holes from here on
}

static int copy_to(int from, const char *target) {
    int to = open(target, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    int error = copy(from, to);
    if (close(to) < 0 && error == 0)
        error = -errno;
    if (error < 0)
        unlink(target);
    return error;
}

int move_file(int dir_fd, const char *name, const char *target) {
    if (renameat(dir_fd, name, AT_FDCWD, target) == 0)
        return 0;
    if (errno != EXDEV)
        return -errno;
    // Others may put something there that is no file, and opening it must not wait.
    struct stat status;
    int from = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (from < 0)
        return -errno;
    int error =
        fstat(from, &status) == 0 && S_ISREG(status.st_mode) ? copy_to(from, target) : -EINVAL;
    close(from);
    if (error == 0)
        unlinkat(dir_fd, name, 0);
    return error;
}
