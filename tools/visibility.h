// Whether libsockleak.so can see what a program does, and why not. A preload library is loaded by
// the program's own dynamic linker, if it has one and is not told to be careful, and sees calls
// that go through the C library.
#ifndef SOCKLEAK_TOOLS_VISIBILITY_H
#define SOCKLEAK_TOOLS_VISIBILITY_H

#include "base/program.h"
#include "elf_facts.h"
#include <stdbool.h>
#include <sys/types.h>

struct visibility {
    const char *problem;    // "statically linked"; NULL: it can be watched
    bool must_not_preload;  // it would not start with LD_PRELOAD set to a library of ours
    struct elf_facts facts; // of the program, or of the interpreter that its #! line names
};

// What is wrong with it, in words: "statically linked". NULL where nothing is. Static.
const char *visibility_problem(enum program_problem problem);

// Looks at an executable file. A file that cannot be read has no problem that is known.
void visibility_of_file(const char *path, struct visibility *out);

// Looks at a process that runs. Returns 1 with *problem set where it is not watched, 0 where it is,
// -EAGAIN where it is starting and it is too early to tell, -ESRCH where it is gone. `problem` is
// static.
int visibility_of_process(pid_t pid, const char **problem);

#endif
