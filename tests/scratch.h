// A directory for the files of one test program. For one source file of the program: the helpers
// that the others call (unit.h, rig.h) stand there.
#ifndef SOCKLEAK_TESTS_SCRATCH_H
#define SOCKLEAK_TESTS_SCRATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char scratch_path[64];
static pid_t scratch_maker;

static void scratch_empty(void) {
    DIR *dir = opendir(scratch_path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
}

// Not by a forked child that exits.
static void scratch_remove(void) {
    if (getpid() != scratch_maker)
        return;
    scratch_empty();
    rmdir(scratch_path);
}

// Made at the first call, and removed with what is in it when the program ends. NULL: it cannot be.
static const char *scratch_make(void) {
    if (scratch_path[0])
        return scratch_path;
    strcpy(scratch_path, "/tmp/sockleak-test-XXXXXX");
    if (!mkdtemp(scratch_path))
        return NULL;
    scratch_maker = getpid();
    atexit(scratch_remove);
    return scratch_path;
}

#endif
