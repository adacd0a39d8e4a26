#include "run_directory.h"
#include "errors.h"
#include "ledger/file_system.h"
#include "move_file.h"
#include "procfs.h"
#include "run_notices.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    OPTION_TEXT_BYTES = 256, // base/options.h: what the library takes, NUL included
    REMOVE_TRIES = 3         // a process that still runs may add a ledger meanwhile
};

static const char owner_link[] = "owner";

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

// Elsewhere others could rename our directory and put one of theirs in its place, with ledgers of
// their making.
static bool is_safe(const char *path) {
    struct stat status;
    return path && path[0] == '/' && stat(path, &status) == 0 &&
           (status.st_uid == 0 || status.st_uid == geteuid()) &&
           (!(status.st_mode & (S_IWGRP | S_IWOTH)) || (status.st_mode & S_ISVTX));
}

static const char *default_parent(void) {
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *temporary = getenv("TMPDIR");
    // Root's own is closed to others, see above.
    if (geteuid() != 0 && is_in_memory(runtime) && is_safe(runtime))
        return runtime;
    if (is_in_memory("/dev/shm") && is_safe("/dev/shm"))
        return "/dev/shm";
    return is_safe(temporary) ? temporary : "/tmp";
}

// Where the ledgers of a run are while it runs. Where it is not where they are kept (see
// ledger/file_system.h), they are copied in the end.
static const char *parent_of(const struct run_directory *directory) {
    struct statfs status;
    bool can_be_mapped = directory->keep[0] && (statfs(directory->keep, &status) < 0 ||
                                                file_system_keeps_pages((long)status.f_type));
    return can_be_mapped ? directory->keep : default_parent();
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

// Returns whether a ledger stays that was to be kept.
static bool empty(const struct run_directory *directory, DIR *dir) {
    const struct dirent *entry;
    bool stays = false;
    int here = dirfd(dir);
    while ((entry = readdir(dir))) {
        size_t len = strlen(entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (directory->keep[0] && len > 7 && strcmp(entry->d_name + len - 7, ".ledger") == 0) {
            char target[PATH_MAX];
            int needed = snprintf(target, sizeof target, "%s/%s", directory->keep, entry->d_name);
            int error = needed < (int)sizeof target ? move_file(here, entry->d_name, target)
                                                    : -ENAMETOOLONG;
            if (error < 0)
                error_warn("%s/%s: stays here: %s", directory->path, entry->d_name,
                           strerror(-error));
            stays |= error < 0;
            continue;
        }
        unlinkat(here, entry->d_name, 0);
    }
    return stays;
}

// --- what a killed run left ---------------------------------------------------------------------

// A link that leads nowhere tells whose the directory is: PID START-TIME PID-NAMESPACE.
static void name_owner(char *out, size_t bytes) {
    struct procfs_status status = {0};
    procfs_status(getpid(), &status);
    snprintf(out, bytes, "%d %llu %llu", (int)getpid(), (unsigned long long)status.start_ticks,
             (unsigned long long)procfs_namespace(getpid(), "pid"));
}

static void sign(const char *path) {
    char link[PATH_MAX + 16], owner[96];
    name_owner(owner, sizeof owner);
    snprintf(link, sizeof link, "%s/%s", path, owner_link);
    if (symlink(owner, link) < 0)
        error_warn("%s: %s", link, strerror(errno)); // then it stays if we are killed
}

static bool owner_is_gone(int dir) {
    char owner[96];
    int pid;
    unsigned long long start_ticks, namespace;
    ssize_t len = readlinkat(dir, owner_link, owner, sizeof owner - 1);
    owner[len > 0 ? len : 0] = '\0';
    if (sscanf(owner, "%d %llu %llu", &pid, &start_ticks, &namespace) != 3 || pid <= 0 ||
        namespace == 0 || namespace != procfs_namespace(getpid(), "pid"))
        return false; // nobody can tell from here
    struct procfs_status status;
    int error = procfs_status(pid, &status);
    return error == -ESRCH || (error == 0 && status.start_ticks != start_ticks);
}

static void remove_if_stale(int parent, const char *parent_path, const char *name) {
    struct stat status;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    static const struct run_directory none;
    if (fstat(fd, &status) == 0 && status.st_uid == geteuid() && owner_is_gone(fd)) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", parent_path, name);
        run_notices_end(path);
        empty(&none, dir);
        unlinkat(parent, name, AT_REMOVEDIR);
    }
    closedir(dir);
}

// A run that is killed cannot clean up: the next one does, for its own user.
static void remove_stale(const char *parent) {
    DIR *dir = opendir(parent);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (strncmp(entry->d_name, "sockleak-", 9) == 0 && strlen(entry->d_name) == 15)
            remove_if_stale(dirfd(dir), parent, entry->d_name);
    if (dir)
        closedir(dir);
}

int run_directory_make(struct run_directory *out, const char *keep) {
    memset(out, 0, sizeof *out);
    int error = keep ? make_kept(out, keep) : 0;
    if (error < 0)
        return error;
    const char *parent = parent_of(out);
    if (parent != out->keep)
        remove_stale(parent);
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
    sign(out->path);
    run_notices_begin(out);
    return 0;
}

int run_directory_watch(const struct run_directory *directory) {
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd >= 0 && inotify_add_watch(fd, directory->path, IN_CREATE) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void run_directory_end(const struct run_directory *directory) {
    int error = 0;
    run_notices_end(directory->path);
    for (int i = 0; i < REMOVE_TRIES; i++) {
        DIR *dir = opendir(directory->path);
        if (!dir)
            return;
        bool stays = empty(directory, dir);
        closedir(dir);
        if (stays)
            return; // it was said why
        error = rmdir(directory->path) < 0 ? errno : 0;
        if (error != ENOTEMPTY)
            break;
    }
    if (error)
        error_warn("%s: not removed: %s", directory->path, strerror(error));
}
