// A file's name without its directories. NULL stays NULL.
#ifndef SOCKLEAK_TOOLS_BASE_NAME_H
#define SOCKLEAK_TOOLS_BASE_NAME_H

#include <string.h>

static inline const char *base_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path;
}

#endif
