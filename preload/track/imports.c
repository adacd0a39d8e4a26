#include "track/imports.h"
#include "base/sys.h"
#include <elf.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
enum {
    SLOT_LAZY = R_X86_64_JUMP_SLOT,
    SLOT_EAGER = R_X86_64_GLOB_DAT
};
#elif defined(__aarch64__)
enum {
    SLOT_LAZY = R_AARCH64_JUMP_SLOT,
    SLOT_EAGER = R_AARCH64_GLOB_DAT
};
#endif

struct table {
    const ElfW(Rela) * entries;
    size_t bytes;
};

struct image {
    const struct link_map *map;
    const char *strings;
    const ElfW(Sym) * symbols;
    struct table plt, others;
};

static struct image image_of(const struct link_map *map) {
    struct image image = {.map = map};
    for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        // glibc has relocated these pointers (elf/get-dynamic-info.h).
        switch (d->d_tag) {
        case DT_STRTAB:
            image.strings = (const char *)d->d_un.d_ptr;
            break;
        case DT_SYMTAB:
            image.symbols = (const ElfW(Sym) *)d->d_un.d_ptr;
            break;
        case DT_JMPREL:
            image.plt.entries = (const ElfW(Rela) *)d->d_un.d_ptr;
            break;
        case DT_PLTRELSZ:
            image.plt.bytes = d->d_un.d_val;
            break;
        case DT_RELA:
            image.others.entries = (const ElfW(Rela) *)d->d_un.d_ptr;
            break;
        case DT_RELASZ:
            image.others.bytes = d->d_un.d_val;
            break;
        default:
            break;
        }
    }
    return image;
}

// Under full RELRO the table is read-only by now. The page is the library's alone.
static int store_slot(void **slot, void *value) {
    size_t page_bytes = sys_page_bytes();
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    char *page = (char *)((uintptr_t)slot & ~(page_bytes - 1));
    int error = sys_mprotect(page, page_bytes, PROT_READ | PROT_WRITE);
    if (error == 0)
        *slot = value;
    return error;
}

static int redirect(const struct image *image, const struct table *table, const char *name,
                    void *function) {
    for (size_t i = 0;
         table->entries && image->symbols && i < table->bytes / sizeof *table->entries; i++) {
        const ElfW(Rela) *entry = &table->entries[i];
        unsigned long type = ELF64_R_TYPE(entry->r_info);
        const ElfW(Sym) *symbol = &image->symbols[ELF64_R_SYM(entry->r_info)];
        if ((type != SLOT_LAZY && type != SLOT_EAGER) ||
            strcmp(image->strings + symbol->st_name, name) != 0)
            continue;
        int error = store_slot((void **)(image->map->l_addr + entry->r_offset), function);
        if (error < 0)
            return error;
    }
    return 0;
}

int imports_redirect(const struct link_map *map, const char *name, void *function) {
    struct image image = image_of(map);
    int error = redirect(&image, &image.plt, name, function);
    return error < 0 ? error : redirect(&image, &image.others, name, function);
}

struct tls_question {
    const struct link_map *map;
    size_t room_bytes;
    bool is_zero;
};

// The loader's copy of the program headers: in memory the file's own may be anywhere, or nowhere.
static int look_at_tls(struct dl_phdr_info *info, size_t size, void *out) {
    struct tls_question *question = out;
    (void)size;
    if (info->dlpi_addr != question->map->l_addr)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_TLS)
            question->is_zero = info->dlpi_phdr[i].p_memsz <= question->room_bytes &&
                                info->dlpi_phdr[i].p_filesz == 0;
    return 1;
}

bool imports_tls_is_zero(const struct link_map *map, size_t room_bytes) {
    struct tls_question question = {.map = map, .room_bytes = room_bytes};
    dl_iterate_phdr(look_at_tls, &question);
    return question.is_zero;
}
