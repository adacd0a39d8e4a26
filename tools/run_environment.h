// What a watched command is started with: the library, and the environment that loads it.
#ifndef SOCKLEAK_TOOLS_RUN_ENVIRONMENT_H
#define SOCKLEAK_TOOLS_RUN_ENVIRONMENT_H

#include "run_directory.h"
#include "visibility.h"
#include <stddef.h>

// Finds libsockleak.so: beside this command (a build directory), else where `make install` puts it,
// from this command's own place or the one compiled in. Returns 0, or -errno having said why.
int run_library_find(char *path, size_t path_bytes);

// --option NAME=VALUE for the library. NULL if it is fine, else what is wrong with it ("%s" free),
// and in *near the name that was meant, if one is near.
const char *run_option_problem(const char *option, const char **near);

struct run_environment {
    const char *library;
    const struct run_directory *directory;
    const char *const *options; // NAME=VALUE for the library, the last one of a name counts
    size_t option_count;
    const struct visibility *command;
};

// This process's environment with LD_PRELOAD and SOCKLEAK_OPTIONS extended: what the user has in
// them is kept. The runtime of a sanitizer that the command is linked with, which must be first, is
// put there, and ASAN_OPTIONS is told to bear it in other programs. NULL, having said why.
// Free the array and the strings of the variables that were made with run_environment_free().
char **run_environment_make(const struct run_environment *wanted);

void run_environment_free(char **environment);

#endif
