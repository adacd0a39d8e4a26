#include "visibility.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    SCRIPT_DEPTH = 5,       // the kernel's own limit is 4 (fs/exec.c)
    SCRIPT_LINE_BYTES = 256 // BINPRM_BUF_SIZE
};

// Whether the dynamic linker will be in secure mode (ld.so(8)), where it ignores LD_PRELOAD: the
// program gains a user, a group or a capability.
static bool gains_privileges(const char *path) {
    struct stat status;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 || stat(path, &status) < 0)
        return false;
    if ((status.st_mode & S_ISUID) && status.st_uid != geteuid())
        return true;
    if ((status.st_mode & S_ISGID) && (status.st_mode & S_IXGRP) && status.st_gid != getegid())
        return true;
    return geteuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0;
}

// Puts the interpreter of a script into `path`. Returns false where the file is none.
static bool follow_script(char *path, size_t path_bytes) {
    char line[SCRIPT_LINE_BYTES];
    ssize_t len = procfs_read(path, line, sizeof line);
    if (len < 3 || line[0] != '#' || line[1] != '!')
        return false;
    char *at = line + 2 + strspn(line + 2, " \t");
    at[strcspn(at, " \t\n")] = '\0';
    snprintf(path, path_bytes, "%s", at);
    return at[0] == '/';
}

static bool has_other_libc(const struct elf_facts *facts) {
    const char *slash = strrchr(facts->interpreter, '/');
    const char *base = slash ? slash + 1 : facts->interpreter;
    return strncmp(base, "ld-linux", 8) != 0 && strncmp(base, "ld64.so", 7) != 0 &&
           strncmp(base, "ld.so", 5) != 0 && strncmp(base, "ld-2.", 5) != 0;
}

static void judge(const char *path, struct visibility *out) {
    const struct elf_facts *facts = &out->facts;
    if (!facts->is_elf)
        return;
    if (facts->is_foreign) {
        out->problem = "built for another architecture";
        out->must_not_preload = true;
    } else if (facts->is_go) {
        out->problem = "a Go program, which calls the kernel without the C library";
    } else if (facts->is_static) {
        out->problem = "statically linked";
    } else if (has_other_libc(facts)) {
        out->problem = "of another C library than glibc";
        out->must_not_preload = true;
    } else if (gains_privileges(path)) {
        out->problem = "gains privileges: setuid, setgid or capabilities";
    }
}

void visibility_of_file(const char *path, struct visibility *out) {
    char file[4096];
    memset(out, 0, sizeof *out);
    snprintf(file, sizeof file, "%s", path);
    for (int depth = 0; depth < SCRIPT_DEPTH; depth++) {
        if (elf_facts_read(file, &out->facts) < 0)
            return;
        if (out->facts.is_elf || !follow_script(file, sizeof file))
            break;
    }
    judge(file, out);
}

static int has_mapping(pid_t pid, const char *file) {
    struct procfs_mapping mapping;
    int found = procfs_find_mapping(pid, file, &mapping);
    free(mapping.path);
    return found;
}

int visibility_of_process(pid_t pid, const char **problem) {
    // The dynamic linker maps what LD_PRELOAD names before what the program needs, so libc without
    // our library is final.
    int has_library = has_mapping(pid, "libsockleak.so*");
    if (has_library == -EACCES || has_library == -EPERM) {
        *problem = "runs with other privileges";
        return 1;
    }
    if (has_library < 0)
        return has_library;
    char path[32];
    struct visibility of_file;
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    visibility_of_file(path, &of_file);
    // Setuid bits of the file do not count here: the linker has decided.
    if (of_file.problem && (!has_library || of_file.facts.is_go)) {
        *problem = of_file.problem;
        return 1;
    }
    if (has_library)
        return 0;
    int has_libc = has_mapping(pid, "libc.so.6");
    if (has_libc == 0)
        has_libc = has_mapping(pid, "libc-2*");
    if (has_libc <= 0)
        return has_libc < 0 ? has_libc : -EAGAIN;
    // Both may have been mapped since the first look: only what is missing after libc is there
    // counts.
    has_library = has_mapping(pid, "libsockleak.so*");
    if (has_library != 0)
        return has_library < 0 ? has_library : 0;
    *problem = "started without LD_PRELOAD";
    return 1;
}
