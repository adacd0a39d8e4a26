#include "procfs.h"
#include "base_name.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    PATH_BYTES = 64, // of /proc/PID/something
    CMDLINE_MAX_BYTES = 1 << 20
};

// --- files --------------------------------------------------------------------------------------

static int open_of(pid_t pid, const char *name, int flags) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, flags | O_RDONLY | O_CLOEXEC | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

static ssize_t read_all(int fd, char *out, size_t room) {
    size_t len = 0;
    while (len < room) {
        ssize_t n = read(fd, out + len, room - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

ssize_t procfs_read(const char *path, char *out, size_t out_bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    ssize_t len = read_all(fd, out, out_bytes - 1);
    close(fd);
    out[len > 0 ? len : 0] = '\0';
    return len;
}

// --- one process --------------------------------------------------------------------------------

static const char *field_behind(const char *at, int fields) {
    for (int i = 0; at && i < fields; i++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at;
}

int procfs_status(pid_t pid, struct procfs_status *out) {
    char text[1024], path[PATH_BYTES];
    memset(out, 0, sizeof *out);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    ssize_t len = procfs_read(path, text, sizeof text);
    if (len <= 0)
        return len == -ENOENT || len == 0 ? -ESRCH : (int)len;
    // Field 2 is the name in parentheses, which may hold anything: the last one ends it.
    char *name = strchr(text, '('), *end = strrchr(text, ')');
    if (!name || !end || end < name || end[1] != ' ')
        return -EPROTO;
    *end = '\0';
    snprintf(out->name, sizeof out->name, "%s", name + 1);
    const char *state = end + 2;
    const char *parent = field_behind(state, 1), *start = field_behind(state, 22 - 3);
    if (!parent || !start)
        return -EPROTO;
    out->state = *state;
    out->parent = (pid_t)strtol(parent, NULL, 10);
    out->start_ticks = strtoull(start, NULL, 10);
    return 0;
}

char *procfs_exe(pid_t pid) {
    char path[PATH_BYTES], target[4096];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    ssize_t len = readlink(path, target, sizeof target - 1);
    if (len <= 0)
        return NULL;
    return strndup(target, (size_t)len);
}

char *procfs_cmdline(pid_t pid, size_t *len_bytes) {
    *len_bytes = 0;
    int fd = open_of(pid, "cmdline", 0);
    if (fd < 0)
        return NULL;
    char *text = NULL;
    size_t room = 0;
    ssize_t len = 0;
    do {
        room = room ? room * 2 : 4096;
        char *more = realloc(text, room);
        if (!more)
            break;
        text = more;
        if (lseek(fd, 0, SEEK_SET) != 0)
            break;
        len = read_all(fd, text, room - 1);
    } while (len == (ssize_t)room - 1 && room < CMDLINE_MAX_BYTES);
    close(fd);
    if (len <= 0) {
        free(text);
        return NULL;
    }
    text[len] = '\0';
    // A program may have overwritten its arguments without the last NUL.
    *len_bytes = (size_t)len + (text[len - 1] != '\0');
    return text;
}

char *procfs_title(pid_t pid) {
    size_t len;
    char *title = procfs_cmdline(pid, &len);
    if (title) {
        for (size_t i = 0; i + 1 < len; i++)
            if (title[i] == '\0')
                title[i] = ' ';
            else if ((unsigned char)title[i] >= 0x7f || !isprint((unsigned char)title[i]))
                title[i] = '?';
        size_t end = strlen(title); // nginx and others pad with blanks
        while (end && title[end - 1] == ' ')
            title[--end] = '\0';
        if (end)
            return title;
        free(title);
    }
    struct procfs_status status;
    int error = procfs_status(pid, &status);
    char text[80];
    snprintf(text, sizeof text, "[%s]", error < 0 ? "gone" : status.name);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c >= 0x7f || !isprint((unsigned char)*c))
            *c = '?';
    return strdup(text);
}

uid_t procfs_uid(pid_t pid) {
    // Not the owner of /proc/PID: that is root where the process is not dumpable.
    char path[PATH_BYTES], text[2048];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    const char *line = procfs_read(path, text, sizeof text) > 0 ? strstr(text, "\nUid:") : NULL;
    unsigned real, effective;
    return line && sscanf(line + 5, "%u %u", &real, &effective) == 2 ? effective : (uid_t)-1;
}

static uint64_t bracketed_number(const char *text, const char *prefix) {
    size_t len = strlen(prefix);
    if (strncmp(text, prefix, len) != 0)
        return 0;
    char *end;
    uint64_t number = strtoull(text + len, &end, 10);
    return *end == ']' ? number : 0;
}

static uint64_t linked_number(const char *path, const char *prefix) {
    char target[PATH_BYTES];
    ssize_t len = readlink(path, target, sizeof target - 1);
    if (len <= 0)
        return 0;
    target[len] = '\0';
    return bracketed_number(target, prefix);
}

uint64_t procfs_namespace(pid_t pid, const char *kind) {
    char path[PATH_BYTES], prefix[32];
    snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, kind);
    snprintf(prefix, sizeof prefix, "%s:[", kind);
    return linked_number(path, prefix);
}

// --- its sockets --------------------------------------------------------------------------------

static int add_socket(struct procfs_socket **list, size_t *count, size_t *room, int fd,
                      uint64_t inode) {
    if (*count == *room) {
        size_t wanted = *room ? *room * 2 : 16;
        struct procfs_socket *more = realloc(*list, wanted * sizeof **list);
        if (!more)
            return -ENOMEM;
        *list = more;
        *room = wanted;
    }
    (*list)[(*count)++] = (struct procfs_socket){fd, inode};
    return 0;
}

static int by_inode_and_fd(const void *left, const void *right) {
    const struct procfs_socket *a = left, *b = right;
    if (a->inode != b->inode)
        return a->inode < b->inode ? -1 : 1;
    return (a->fd > b->fd) - (a->fd < b->fd);
}

int procfs_sockets(pid_t pid, struct procfs_socket **out, size_t *count) {
    *out = NULL;
    *count = 0;
    int dir_fd = open_of(pid, "fd", O_DIRECTORY);
    if (dir_fd < 0)
        return dir_fd == -ENOENT ? -ESRCH : dir_fd;
    DIR *dir = fdopendir(dir_fd);
    if (!dir) {
        close(dir_fd);
        return -ENOMEM;
    }
    int error = 0;
    size_t room = 0;
    const struct dirent *entry;
    while (error == 0 && (entry = readdir(dir))) {
        char target[PATH_BYTES];
        ssize_t len = readlinkat(dir_fd, entry->d_name, target, sizeof target - 1);
        // The directory may be read by its owner, what is in it only by who may trace the process.
        if (len < 0 && errno == EACCES)
            error = -EACCES;
        if (len <= 0)
            continue; // ".", "..", or closed since
        target[len] = '\0';
        uint64_t inode = bracketed_number(target, "socket:[");
        if (inode)
            error = add_socket(out, count, &room, atoi(entry->d_name), inode);
    }
    closedir(dir);
    if (error < 0) {
        free(*out);
        *out = NULL;
        *count = 0;
    }
    if (*count)
        qsort(*out, *count, sizeof **out, by_inode_and_fd);
    return error;
}

uint64_t procfs_socket_inode(pid_t pid, int fd) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    return linked_number(path, "socket:[");
}

bool procfs_has_io_uring(pid_t pid) {
    int dir_fd = open_of(pid, "fd", O_DIRECTORY);
    DIR *dir = dir_fd < 0 ? NULL : fdopendir(dir_fd);
    const struct dirent *entry;
    bool found = false;
    while (dir && !found && (entry = readdir(dir))) {
        char target[PATH_BYTES];
        ssize_t len = readlinkat(dir_fd, entry->d_name, target, sizeof target - 1);
        target[len > 0 ? len : 0] = '\0';
        found = strcmp(target, "anon_inode:[io_uring]") == 0;
    }
    if (dir)
        closedir(dir);
    else if (dir_fd >= 0)
        close(dir_fd);
    return found;
}

int procfs_socket_protocol(pid_t pid, int fd, char *out, size_t out_bytes) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    ssize_t len = getxattr(path, "system.sockprotoname", out, out_bytes - 1);
    int error = len < 0 ? -errno : 0;
    out[len > 0 ? len : 0] = '\0';
    return error;
}

// --- its memory map -----------------------------------------------------------------------------

static bool name_matches(const char *path, const char *name) {
    const char *base = base_name(path);
    size_t len = strlen(name);
    if (len && name[len - 1] == '*')
        return strncmp(base, name, len - 1) == 0;
    return strncmp(base, name, len) == 0 &&
           (base[len] == '\0' || strcmp(base + len, " (deleted)") == 0);
}

int procfs_find_mapping(pid_t pid, const char *name, struct procfs_mapping *out) {
    memset(out, 0, sizeof *out);
    int fd = open_of(pid, "maps", 0);
    if (fd < 0)
        return fd == -ENOENT ? -ESRCH : fd;
    FILE *maps = fdopen(fd, "r");
    if (!maps) {
        close(fd);
        return -ENOMEM;
    }
    char *line = NULL;
    size_t room = 0;
    int found = 0;
    while (found == 0 && getline(&line, &room, maps) > 0) {
        char *path = strchr(line, '/');
        if (!path)
            continue;
        path[strcspn(path, "\n")] = '\0';
        if (!name_matches(path, name) ||
            sscanf(line, "%lx-%lx %*s %lx", &out->start, &out->end, &out->offset) != 3)
            continue;
        out->path = strdup(path);
        found = out->path ? 1 : -ENOMEM;
    }
    // A file that opens and then cannot be read: ptrace permission is asked at the first read.
    if (found == 0 && ferror(maps))
        found = -EACCES;
    free(line);
    fclose(maps);
    return found;
}

int procfs_has_mapping(pid_t pid, const char *name) {
    struct procfs_mapping mapping;
    int found = procfs_find_mapping(pid, name, &mapping);
    free(mapping.path);
    return found;
}

bool procfs_runs(pid_t pid, uint64_t start_ticks) {
    struct procfs_status status;
    return procfs_status(pid, &status) == 0 && status.state != 'Z' && status.state != 'X' &&
           status.start_ticks == start_ticks;
}

// --- all processes ------------------------------------------------------------------------------

static int by_number(const void *left, const void *right) {
    pid_t a = *(const pid_t *)left, b = *(const pid_t *)right;
    return (a > b) - (a < b);
}

static int list_processes(pid_t **out, size_t *count) {
    DIR *dir = opendir("/proc");
    if (!dir)
        return -errno;
    size_t room = 0;
    const struct dirent *entry;
    int error = 0;
    while (error == 0 && (entry = readdir(dir))) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (*end != '\0' || pid <= 0)
            continue;
        if (*count == room) {
            room = room ? room * 2 : 256;
            pid_t *more = realloc(*out, room * sizeof **out);
            if (!more) {
                error = -ENOMEM;
                break;
            }
            *out = more;
        }
        (*out)[(*count)++] = (pid_t)pid;
    }
    closedir(dir);
    return error;
}

int procfs_each_process(int (*each)(void *context, pid_t pid), void *context) {
    pid_t *pids = NULL;
    size_t count = 0;
    int result = list_processes(&pids, &count);
    if (count)
        qsort(pids, count, sizeof *pids, by_number);
    for (size_t i = 0; i < count && result == 0; i++)
        result = each(context, pids[i]);
    free(pids);
    return result;
}
