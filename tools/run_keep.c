#include "run_keep.h"
#include "errors.h"
#include "ledger/ledger_format.h"
#include "ledger_reader.h"
#include "procfs.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- when they ended ----------------------------------------------------------------------------

// Others may have put files there, too (see preload/README.md): only what is a ledger, and
// has no other name elsewhere, is written to.
static bool read_header(int fd, struct ledger_header *header) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 1 &&
           pread(fd, header, sizeof *header, 0) == (ssize_t)sizeof *header &&
           ledger_reader_knows(header, sizeof *header) && header->version == LEDGER_VERSION;
}

static void write_end(int fd, const char *path, const struct descendants *list) {
    struct ledger_header header;
    if (!read_header(fd, &header) || header.ended != ENDED_RUNNING || header.pid > INT32_MAX)
        return;
    uint64_t gone_ns = descendants_gone_ns(list, (pid_t)header.pid, header.start_time_ticks);
    if (gone_ns &&
        pwrite(fd, &gone_ns, sizeof gone_ns, offsetof(struct ledger_header, gone_ns)) < 0)
        error_warn("%s: when its process ended cannot be noted: %s", path, strerror(errno));
}

void run_keep_ends(const struct run_directory *directory, const struct descendants *list) {
    const struct dirent *entry;
    DIR *dir = directory->keep[0] ? opendir(directory->path) : NULL;
    while (dir && (entry = readdir(dir))) {
        if (!strstr(entry->d_name, ".ledger"))
            continue;
        int fd = openat(dirfd(dir), entry->d_name,
                        O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0) {
            write_end(fd, entry->d_name, list);
            close(fd);
        }
    }
    if (dir)
        closedir(dir);
}

// --- the rest -----------------------------------------------------------------------------------

// Named like a ledger, by a process that there is once: this one.
static FILE *create(const struct run_directory *directory, char *path, size_t path_bytes) {
    struct procfs_status self = {0};
    procfs_status(getpid(), &self);
    int len = snprintf(path, path_bytes, "%s/run-%d-%llu.json", directory->keep, (int)getpid(),
                       (unsigned long long)self.start_ticks);
    int fd = len < (int)path_bytes ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    return fd < 0 ? NULL : fdopen(fd, "w");
}

void run_keep_rest(const struct run_directory *directory, struct report *rest) {
    const struct report_options options = REPORT_OPTIONS_DEFAULT;
    const struct render_options render = RENDER_OPTIONS_DEFAULT;
    char path[PATH_MAX];
    if (!directory->keep[0] || (rest->process_count == 0 && rest->note_count == 0))
        return;
    FILE *file = create(directory, path, sizeof path);
    bool is_written = file && report_finish(rest, &options) == 0 &&
                      report_write(rest, FORMAT_JSON, file, &render) == 0;
    if ((file && fclose(file) != 0) || !is_written)
        error_warn("%s: what is in no ledger is not kept: %s", directory->keep, strerror(errno));
}
