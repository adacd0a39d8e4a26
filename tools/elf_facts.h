// What an executable file says about itself, by libelf. Any bytes may stand in the file.
#ifndef SOCKLEAK_TOOLS_ELF_FACTS_H
#define SOCKLEAK_TOOLS_ELF_FACTS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ELF_NAME_BYTES = 256
};

struct elf_facts {
    bool is_elf;
    bool is_foreign;                  // another machine or word size than this tool's
    bool is_static;                   // names no program interpreter (static-pie included)
    bool is_go;                       // has the Go linker's build id
    char interpreter[ELF_NAME_BYTES]; // "/lib64/ld-linux-x86-64.so.2"; "" where static
    char sanitizer[ELF_NAME_BYTES];   // the DT_NEEDED runtime, such as "libasan.so.8"; "" for none
};

// 0 or -errno, where the file cannot be opened. A file that is no ELF file is no error.
int elf_facts_read(const char *path, struct elf_facts *out);

#endif
