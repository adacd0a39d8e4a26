// What an executable file says about whether a preload library will see what it does. Asked before
// an exec, of the file as it is then: a program that ends within a millisecond leaves nothing that
// could be asked later, and may have removed its file.
//
// Raw system calls, no allocation, errno left alone: signal-safe, and safe in a vfork child. One
// descriptor is open for as long as the file is read. Shared with tools/: the numbers are part of
// the marks in a ledger directory (ledger/mark_format.h), and visibility.c has their texts.
#ifndef SOCKLEAK_BASE_PROGRAM_H
#define SOCKLEAK_BASE_PROGRAM_H

#include <stddef.h>

enum {
    PROGRAM_NAME_BYTES = 256
};

enum program_problem {
    PROGRAM_FINE, // or not known to be otherwise
    PROGRAM_FOREIGN,
    PROGRAM_GO,
    PROGRAM_STATIC,
    PROGRAM_OTHER_LIBC,
    PROGRAM_PRIVILEGED,     // the dynamic linker will be in secure mode, see ld.so(8)
    PROGRAM_NOT_PRELOADED,  // LD_PRELOAD does not name the library
    PROGRAM_LIBRARY_HIDDEN, // it does, by a path that cannot be read from here
    PROGRAM_NO_LEDGER_DIR,  // SOCKLEAK_OPTIONS does not name the ledger directory
    PROGRAM_UNREADABLE,     // the file may be executed, and cannot be read
    PROGRAM_PROBLEMS
};

struct program {
    enum program_problem problem;
    // The file of the program, or of the interpreter that its #! line names: the kernel's name for
    // it, or as it was given where /proc is not mounted. May be cut.
    char exe[PROGRAM_NAME_BYTES];
};

// Looks at the file that execve(path) would run. `path` may be any pointer. `otherwise` is the
// problem of a program whose file has none. Returns 0; -ENOEXEC where the file is neither ELF nor a
// script: the kernel will refuse it, or has another interpreter for it; or the -errno with which an
// exec would fail. *out is set in any case.
int program_look(int dir, const char *path, enum program_problem otherwise, struct program *out);

#endif
