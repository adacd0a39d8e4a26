// Where a report's ledgers come from: files, directories, memory.
#include "errors.h"
#include "json_reader.h"
#include "ledger_reader.h"
#include "regular_file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- memory -------------------------------------------------------------------------------------

static int read_memory(void *context, uint64_t offset, void *out, size_t len_bytes) {
    memcpy(out, (const char *)context + offset, len_bytes);
    return 0;
}

int report_add_ledger_source(struct report *report, const struct ledger_source *source) {
    return ledger_reader_add(report, source);
}

int report_add_ledger_memory(struct report *report, const void *bytes, size_t len_bytes,
                             const char *label) {
    struct ledger_source source = {read_memory, (void *)bytes, len_bytes, label};
    return ledger_reader_add(report, &source);
}

// --- files --------------------------------------------------------------------------------------

// Not mapped: a file that is cut under a mapping raises SIGBUS.
static int read_file(void *context, uint64_t offset, void *out, size_t len_bytes) {
    int fd = *(const int *)context;
    for (size_t done = 0; done < len_bytes;) {
        ssize_t got = pread(fd, (char *)out + done, len_bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return -ENODATA;
        done += (size_t)got;
    }
    return 0;
}

static int say_unreadable(const char *path, int error) {
    if (error == -ELOOP)
        error_say("%s: is a symbolic link: not followed, name the file itself", path);
    else if (error == -EINVAL)
        error_say("%s: is no regular file, and a ledger is one", path);
    else if (error == -EACCES)
        error_say("%s: cannot be read: %s (the user who ran the program may, or root)", path,
                  strerror(-error));
    else
        error_say("%s: cannot be read: %s", path, strerror(-error));
    return error;
}

static int add_ledger(struct report *report, int fd, uint64_t bytes, const char *path) {
    struct ledger_source source = {read_file, &fd, bytes, path};
    return ledger_reader_add(report, &source);
}

// A file is what its first bytes say, whatever its name.
static int add_file(struct report *report, const char *path, int flags) {
    uint64_t bytes;
    char front[16] = "";
    int fd = regular_file_open(path, flags, &bytes);
    if (fd < 0)
        return say_unreadable(path, fd);
    ssize_t got = pread(fd, front, sizeof front - 1, 0);
    int error;
    if (ledger_reader_knows(front, got < 0 ? 0 : (size_t)got))
        error = add_ledger(report, fd, bytes, path);
    else if (front[strspn(front, " \t\r\n")] == '{')
        error = json_reader_add(report, fd, bytes, path);
    else {
        error_say(bytes ? "%s: neither a ledger nor a JSON report of sockleak"
                        : "%s: empty: no ledger, or one that somebody has truncated",
                  path);
        error = -EBADMSG;
    }
    close(fd);
    return error;
}

int report_add_ledger_file(struct report *report, const char *path) {
    uint64_t bytes;
    int fd = regular_file_open(path, 0, &bytes);
    if (fd < 0)
        return say_unreadable(path, fd);
    int error = add_ledger(report, fd, bytes, path);
    close(fd);
    return error;
}

// --- directories --------------------------------------------------------------------------------

static bool ends_in(const char *name, const char *end) {
    size_t len = strlen(name), end_len = strlen(end);
    return len > end_len && strcmp(name + len - end_len, end) == 0;
}

bool report_reads_name(const char *name) {
    return ends_in(name, ".ledger") || ends_in(name, ".json");
}

static int is_input(const struct dirent *entry) {
    return report_reads_name(entry->d_name);
}

// By name, and ledgers before what was told of them.
static int ledgers_first(const struct dirent **left, const struct dirent **right) {
    int order = ends_in((*right)->d_name, ".ledger") - ends_in((*left)->d_name, ".ledger");
    return order ? order : alphasort(left, right);
}

static int add_directory(struct report *report, const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, is_input, ledgers_first);
    if (count < 0)
        return say_unreadable(path, -errno);
    int first_error = 0;
    for (int i = 0; i < count; i++) {
        char *name = NULL;
        if (asprintf(&name, "%s/%s", path, entries[i]->d_name) < 0)
            name = must_copy(entries[i]->d_name);
        // A ledger directory may be writable for everybody: a link in it may point anywhere.
        int error = add_file(report, name, O_NOFOLLOW);
        if (error < 0) {
            char *note = NULL;
            if (asprintf(&note, "%s could not be read: its process is missing here", name) >= 0)
                report_note_text(report, note);
            free(note);
        }
        if (first_error == 0)
            first_error = error;
        free(name);
        free(entries[i]);
    }
    free(entries);
    return first_error;
}

int report_add_path(struct report *report, const char *file_or_directory) {
    struct stat status;
    if (stat(file_or_directory, &status) < 0)
        return say_unreadable(file_or_directory, -errno);
    return S_ISDIR(status.st_mode) ? add_directory(report, file_or_directory)
                                   : add_file(report, file_or_directory, 0);
}
