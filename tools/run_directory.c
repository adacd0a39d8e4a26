#include "run_directory.h"
#include "errors.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    OPTION_TEXT_BYTES = 256, // base/options.h: what the library takes, NUL included
    REMOVE_TRIES = 3         // a process that still runs may add a ledger meanwhile
};

static mode_t directory_mode(void) {
    // A server that root starts drops its privileges before it opens its next socket: its workers
    // must be able to add a file, though not to read or remove another's.
    return geteuid() == 0 ? 01733 : 0700;
}

static bool is_in_memory(const char *path) {
    struct statfs status;
    return path && path[0] == '/' && statfs(path, &status) == 0 && status.f_type == TMPFS_MAGIC &&
           access(path, W_OK | X_OK) == 0;
}

static const char *default_parent(void) {
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *temporary = getenv("TMPDIR");
    // Root's own is closed to others, see above.
    if (geteuid() != 0 && is_in_memory(runtime))
        return runtime;
    if (is_in_memory("/dev/shm"))
        return "/dev/shm";
    return temporary && temporary[0] == '/' ? temporary : "/tmp";
}

static int make_kept(struct run_directory *out, const char *keep) {
    if (mkdir(keep, 0777) < 0 && errno != EEXIST) {
        int error = -errno;
        error_say("%s: cannot be made: %s", keep, strerror(-error));
        return error;
    }
    if (!realpath(keep, out->keep)) {
        int error = -errno;
        error_say("%s: %s", keep, strerror(-error));
        return error;
    }
    return 0;
}

int run_directory_make(struct run_directory *out, const char *keep) {
    memset(out, 0, sizeof *out);
    int error = keep ? make_kept(out, keep) : 0;
    if (error < 0)
        return error;
    const char *parent = keep ? out->keep : default_parent();
    int len = snprintf(out->path, sizeof out->path, "%s/sockleak-XXXXXX", parent);
    if (len >= OPTION_TEXT_BYTES) {
        error_say("%s: the path is too long for a ledger directory: at most %d bytes", parent,
                  OPTION_TEXT_BYTES - 1 - (int)strlen("/sockleak-XXXXXX"));
        return -ENAMETOOLONG;
    }
    if (!mkdtemp(out->path)) {
        error = -errno;
        error_say("%s: no directory can be made there for the ledgers: %s (--ledger-dir=DIR names "
                  "another place)",
                  parent, strerror(-error));
        return error;
    }
    chmod(out->path, directory_mode());
    return 0;
}

static void empty(const struct run_directory *directory, DIR *dir) {
    const struct dirent *entry;
    int here = dirfd(dir);
    while ((entry = readdir(dir))) {
        size_t len = strlen(entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (directory->keep[0] && len > 7 && strcmp(entry->d_name + len - 7, ".ledger") == 0) {
            char target[PATH_MAX];
            int needed = snprintf(target, sizeof target, "%s/%s", directory->keep, entry->d_name);
            if (needed < (int)sizeof target && renameat(here, entry->d_name, AT_FDCWD, target) == 0)
                continue;
            error_warn("%s/%s: stays here: %s", directory->path, entry->d_name, strerror(errno));
            continue;
        }
        unlinkat(here, entry->d_name, 0);
    }
}

void run_directory_end(const struct run_directory *directory) {
    int error = 0;
    for (int i = 0; i < REMOVE_TRIES; i++) {
        DIR *dir = opendir(directory->path);
        if (!dir)
            return;
        empty(directory, dir);
        closedir(dir);
        error = rmdir(directory->path) < 0 ? errno : 0;
        if (error != ENOTEMPTY)
            break;
    }
    if (error)
        error_warn("%s: not removed: %s", directory->path, strerror(error));
}
