#include "report/symbols.h"
#include "base/sys.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>

enum {
    TABLE_MAX_BYTES = 64 << 20,
    SECTIONS_MAX = 256
};

// What cannot be read, or has no room, is told to `symbols`: its names are missing then.
static bool read_at(struct symbols *symbols, int fd, void *out, uint64_t bytes, uint64_t offset) {
    char *at = out;
    while (bytes > 0) {
        long n = sys_call(SYS_pread64, fd, (long)at, (long)bytes, (long)offset, 0, 0);
        if (n == -EINTR)
            continue;
        if (n < 0)
            symbols->unreadable = true;
        if (n <= 0)
            return false;
        at += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return true;
}

// A section's contents, in the scratch; NULL where it is too large or cannot be read.
static void *read_section(struct symbols *symbols, int fd, const ElfW(Shdr) * section) {
    if (section->sh_size == 0 || section->sh_size > TABLE_MAX_BYTES)
        return NULL;
    // A NUL behind the last name.
    void *contents = scratch_take(symbols->scratch, section->sh_size + 1);
    if (!contents)
        symbols->unreadable = true;
    return contents && read_at(symbols, fd, contents, section->sh_size, section->sh_offset)
               ? contents
               : NULL;
}

static const ElfW(Shdr) *
    section_of_type(const ElfW(Shdr) * sections, unsigned count, unsigned type) {
    for (unsigned i = 0; i < count; i++)
        if (sections[i].sh_type == type)
            return &sections[i];
    return NULL;
}

static bool has_build_id(struct symbols *symbols, int fd, const ElfW(Shdr) * sections,
                         unsigned count, const uint8_t *build_id, uint32_t bytes) {
    for (unsigned i = 0; i < count; i++) {
        if (sections[i].sh_type != SHT_NOTE || sections[i].sh_size > 4096)
            continue;
        const char *note = read_section(symbols, fd, &sections[i]);
        if (note && memmem(note, sections[i].sh_size, build_id, bytes))
            return true;
    }
    return false;
}

static void load(struct symbols *of, struct symbol_table *table, int fd, const uint8_t *build_id,
                 uint32_t build_id_bytes) {
    ElfW(Ehdr) header;
    if (!read_at(of, fd, &header, sizeof header, 0) ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_shentsize != sizeof(ElfW(Shdr)) || header.e_shnum > SECTIONS_MAX)
        return;
    ElfW(Shdr) *sections = scratch_take(of->scratch, header.e_shnum * sizeof *sections);
    if (!sections) {
        of->unreadable = true;
        return;
    }
    if (!read_at(of, fd, sections, header.e_shnum * sizeof *sections, header.e_shoff))
        return;
    if (build_id_bytes && !has_build_id(of, fd, sections, header.e_shnum, build_id, build_id_bytes))
        return;
    const ElfW(Shdr) *symbols = section_of_type(sections, header.e_shnum, SHT_SYMTAB);
    if (!symbols)
        symbols = section_of_type(sections, header.e_shnum, SHT_DYNSYM);
    if (!symbols || symbols->sh_link >= header.e_shnum)
        return;
    const ElfW(Shdr) *names = &sections[symbols->sh_link];
    table->names = read_section(of, fd, names);
    table->names_bytes = names->sh_size;
    table->count = symbols->sh_size / sizeof(ElfW(Sym));
    table->symbols = table->names ? read_section(of, fd, symbols) : NULL;
}

static bool may_be_code(const struct symbol_table *table, const ElfW(Sym) * symbol) {
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    return symbol->st_shndx != SHN_UNDEF && symbol->st_name < table->names_bytes &&
           (type == STT_FUNC || type == STT_GNU_IFUNC || (type == STT_NOTYPE && symbol->st_size));
}

// Of several that cover an address (aliases, nested ones) the nearest. A symbol of no size, as
// assembly has, covers what is behind it, but only up to the next one: _init would else name every
// static function of a stripped library.
static const char *find(const struct symbol_table *table, uint64_t address, uint64_t *offset) {
    const ElfW(Sym) *symbols = table->symbols;
    const ElfW(Sym) *sized = NULL, *nearest = NULL;
    for (uint64_t i = 0; symbols && i < table->count; i++) {
        const ElfW(Sym) *s = &symbols[i];
        if (s->st_value > address || !may_be_code(table, s))
            continue;
        if (address - s->st_value < s->st_size && (!sized || s->st_value > sized->st_value))
            sized = s;
        if (!nearest || s->st_value > nearest->st_value ||
            (s->st_value == nearest->st_value && s->st_size > nearest->st_size))
            nearest = s;
    }
    const ElfW(Sym) *best = nearest && nearest->st_size == 0 ? nearest : sized;
    if (!best || !table->names[best->st_name])
        return NULL;
    *offset = address - best->st_value;
    return table->names + best->st_name;
}

const char *symbols_name(struct symbols *symbols, uint32_t number, const char *path,
                         const uint8_t *build_id, uint32_t build_id_bytes, uint64_t address,
                         uint64_t *offset) {
    if (number >= SYMBOLS_FILES)
        return NULL;
    struct symbol_table *table = &symbols->tables[number];
    if (!table->loaded) {
        table->loaded = true;
        int fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0);
        if (fd >= 0) {
            load(symbols, table, fd, build_id, build_id_bytes);
            sys_close(fd);
        } else {
            symbols->unreadable = true;
        }
    }
    return find(table, address, offset);
}
