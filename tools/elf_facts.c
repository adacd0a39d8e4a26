#include "elf_facts.h"
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static Elf *open_elf(const char *path, int *fd) {
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0)
        return NULL;
    elf_version(EV_CURRENT);
    return elf_begin(*fd, ELF_C_READ, NULL);
}

static void close_elf(Elf *elf, int fd) {
    elf_end(elf);
    if (fd >= 0)
        close(fd);
}

// --- facts --------------------------------------------------------------------------------------

// Runtimes that must come before any other library, or end the program with a message that says so.
static bool is_sanitizer(const char *name) {
    static const char *const names[] = {
        "libasan.so",        "libtsan.so",        "liblsan.so",        "libhwasan.so",
        "libclang_rt.asan-", "libclang_rt.tsan-", "libclang_rt.asan.", "libclang_rt.hwasan-"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static void read_needed(Elf *elf, Elf_Scn *section, const GElf_Shdr *header,
                        struct elf_facts *out) {
    Elf_Data *data = elf_getdata(section, NULL);
    GElf_Dyn entry;
    for (int i = 0; data && gelf_getdyn(data, i, &entry); i++) {
        if (entry.d_tag != DT_NEEDED)
            continue;
        const char *name = elf_strptr(elf, header->sh_link, entry.d_un.d_val);
        if (name && is_sanitizer(name) && !out->sanitizer[0])
            snprintf(out->sanitizer, sizeof out->sanitizer, "%s", name);
    }
}

static void read_sections(Elf *elf, struct elf_facts *out) {
    Elf_Scn *section = NULL;
    GElf_Shdr header;
    while ((section = elf_nextscn(elf, section)) && gelf_getshdr(section, &header))
        if (header.sh_type == SHT_DYNAMIC)
            read_needed(elf, section, &header, out);
}

int elf_facts_read(const char *path, struct elf_facts *out) {
    memset(out, 0, sizeof *out);
    int fd;
    Elf *elf = open_elf(path, &fd);
    if (fd < 0)
        return -errno;
    if (elf && elf_kind(elf) == ELF_K_ELF)
        read_sections(elf, out);
    close_elf(elf, fd);
    return 0;
}
