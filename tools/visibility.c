#include "visibility.h"
#include "procfs.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *visibility_problem(enum program_problem problem) {
    static const char *const texts[PROGRAM_PROBLEMS] = {
        [PROGRAM_FOREIGN] = "built for another architecture",
        [PROGRAM_GO] = "a Go program, which calls the kernel without the C library",
        [PROGRAM_STATIC] = "statically linked",
        [PROGRAM_OTHER_LIBC] = "of another C library than glibc",
        [PROGRAM_PRIVILEGED] = "gains privileges: setuid, setgid or capabilities",
        [PROGRAM_NOT_PRELOADED] = "started without LD_PRELOAD",
        [PROGRAM_LIBRARY_HIDDEN] = "cannot read libsockleak.so: another root directory or user",
        [PROGRAM_NO_LEDGER_DIR] = "started without SOCKLEAK_OPTIONS: reports on its own",
        [PROGRAM_UNREADABLE] = "its file could not be read: not known to be watched",
    };
    return texts[problem];
}

static enum program_problem look(const char *path, struct visibility *out) {
    struct program program;
    memset(out, 0, sizeof *out);
    if (program_look(AT_FDCWD, path, PROGRAM_FINE, &program) < 0 ||
        program.problem == PROGRAM_UNREADABLE)
        return PROGRAM_FINE;
    out->problem = visibility_problem(program.problem);
    out->must_not_preload =
        program.problem == PROGRAM_FOREIGN || program.problem == PROGRAM_OTHER_LIBC;
    elf_facts_read(program.exe, &out->facts);
    return program.problem;
}

void visibility_of_file(const char *path, struct visibility *out) {
    look(path, out);
}

int visibility_of_process(pid_t pid, const char **problem) {
    // The dynamic linker maps what LD_PRELOAD names before what the program needs, so libc without
    // our library is final.
    int has_library = procfs_has_mapping(pid, "libsockleak.so*");
    if (has_library == -EACCES || has_library == -EPERM) {
        *problem = "runs with other privileges";
        return 1;
    }
    if (has_library < 0)
        return has_library;
    char path[32];
    struct visibility of_file;
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    enum program_problem known = look(path, &of_file);
    // Setuid bits of the file do not count yet: the linker decides, and the kernel may ignore them.
    if (known != PROGRAM_FINE && known != PROGRAM_PRIVILEGED &&
        (!has_library || known == PROGRAM_GO)) {
        *problem = of_file.problem;
        return 1;
    }
    if (has_library)
        return 0;
    int has_libc = procfs_has_mapping(pid, "libc.so.6");
    if (has_libc == 0)
        has_libc = procfs_has_mapping(pid, "libc-2*");
    if (has_libc <= 0)
        return has_libc < 0 ? has_libc : -EAGAIN;
    // Both may have been mapped since the first look: only what is missing after libc is there
    // counts.
    has_library = procfs_has_mapping(pid, "libsockleak.so*");
    if (has_library != 0)
        return has_library < 0 ? has_library : 0;
    *problem = visibility_problem(known == PROGRAM_PRIVILEGED ? known : PROGRAM_NOT_PRELOADED);
    return 1;
}
