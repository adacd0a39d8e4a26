// Where the file of a name is, also of one that is not there yet: two names may be of one file.
#ifndef SOCKLEAK_TOOLS_FILE_PLACE_H
#define SOCKLEAK_TOOLS_FILE_PLACE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

struct file_place {
    bool is_there;
    dev_t device; // where it is there
    ino_t inode;
    char path[PATH_MAX]; // no link in it leads on; "" where its directory cannot be found
};

void file_place_find(const char *name, struct file_place *out);

bool file_place_is_same(const struct file_place *a, const struct file_place *b);

// Directly, not in a directory below it.
bool file_place_is_in(const struct file_place *file, const char *directory);

#endif
