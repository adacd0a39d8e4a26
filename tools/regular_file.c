#include "regular_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int regular_file_open(const char *path, int flags, uint64_t *bytes) {
    // O_PATH gets hold of the file without opening it (open(2)); it is opened by this, not by its
    // name, behind which there may be another file by now.
    int found = open(path, O_PATH | O_CLOEXEC | flags);
    struct stat status;
    if (found < 0)
        return -errno;
    int result = -EINVAL;
    if (fstat(found, &status) < 0) {
        result = -errno;
    } else if (S_ISLNK(status.st_mode)) { // O_PATH with O_NOFOLLOW gets hold of the link itself
        result = -ELOOP;
    } else if (S_ISREG(status.st_mode)) {
        char again[32];
        snprintf(again, sizeof again, "/proc/self/fd/%d", found);
        result = open(again, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        // Without /proc there is only the name.
        if (result < 0 && errno == ENOENT)
            result = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags);
        if (result < 0)
            result = -errno;
        else if (bytes)
            *bytes = (uint64_t)status.st_size;
    }
    close(found);
    return result;
}
