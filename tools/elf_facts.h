// What an executable file is linked with, by libelf. Any bytes may stand in the file.
#ifndef SOCKLEAK_TOOLS_ELF_FACTS_H
#define SOCKLEAK_TOOLS_ELF_FACTS_H

enum {
    ELF_NAME_BYTES = 256
};

struct elf_facts {
    char sanitizer[ELF_NAME_BYTES]; // the DT_NEEDED runtime, such as "libasan.so.8"; "" for none
};

// 0 or -errno, where the file cannot be opened. A file that is no ELF file is no error.
int elf_facts_read(const char *path, struct elf_facts *out);

#endif
