#include "file_place.h"
#include "base_name.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LINKS_MAX = 40 // that the kernel follows: path_resolution(7)
};

static bool join(char *out, const char *directory, const char *name) {
    return snprintf(out, PATH_MAX, "%s/%s", directory, name) < PATH_MAX;
}

// The directory that the last part of `path` is in, without links.
static bool find_directory(const char *path, char *out) {
    char named[PATH_MAX] = ".";
    int len = (int)(base_name(path) - path);
    if (len >= PATH_MAX)
        return false;
    if (len)
        snprintf(named, sizeof named, "%.*s", len, path);
    return realpath(named, out) != NULL;
}

// Of a file that is not there. What opens it for writing follows a link that leads to nothing, and
// makes what it names.
static bool find_new(const char *name, char *out) {
    char at[PATH_MAX], directory[PATH_MAX], target[PATH_MAX];
    if (strlen(name) >= sizeof at)
        return false;
    strcpy(at, name);
    for (int links = 0; links < LINKS_MAX; links++) {
        if (!find_directory(at, directory) || !join(out, directory, base_name(at)))
            return false;
        ssize_t len = readlink(out, target, sizeof target - 1);
        if (len < 0)
            return true;
        target[len] = '\0';
        if (target[0] == '/')
            strcpy(at, target);
        else if (!join(at, directory, target))
            return false;
    }
    return false;
}

void file_place_find(const char *name, struct file_place *out) {
    struct stat status;
    memset(out, 0, sizeof *out);
    out->is_there = stat(name, &status) == 0;
    if (out->is_there) {
        out->device = status.st_dev;
        out->inode = status.st_ino;
    }
    if (!realpath(name, out->path) && !find_new(name, out->path))
        out->path[0] = '\0';
}

bool file_place_is_same(const struct file_place *a, const struct file_place *b) {
    if (a->is_there && b->is_there)
        return a->device == b->device && a->inode == b->inode;
    return a->is_there == b->is_there && a->path[0] && strcmp(a->path, b->path) == 0;
}

bool file_place_is_in(const struct file_place *file, const char *directory) {
    char wanted[PATH_MAX], found[PATH_MAX];
    return file->path[0] && realpath(directory, wanted) && find_directory(file->path, found) &&
           strcmp(found, wanted) == 0;
}
