#include "track/modules.h"
#include "base/process.h"
#include "base/readable.h"
#include "ledger/ledger.h"
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

// glibc 2.35. Weak, so that the library also loads with an older one.
#ifdef DLFO_STRUCT_HAS_EH_DBASE
extern int _dl_find_object(void *address, struct dl_find_object *result) __attribute__((weak));
#endif

enum {
    PAGE_BYTES = 4096
};

struct found {
    uint64_t start, end, bias;
    const char *path;
};

struct search {
    uint64_t address;
    struct found *out;
};

static int look_at(struct dl_phdr_info *info, size_t size, void *argument) {
    const struct search *search = argument;
    (void)size;
    uint64_t start = UINT64_MAX, end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD)
            continue;
        uint64_t from = info->dlpi_addr + (segment->p_vaddr & ~(uint64_t)(PAGE_BYTES - 1));
        uint64_t to = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
        start = from < start ? from : start;
        end = to > end ? to : end;
    }
    if (search->address < start || search->address >= end)
        return 0;
    *search->out = (struct found){start, end, info->dlpi_addr, info->dlpi_name};
    return 1;
}

static bool find_by_lock(const void *address, struct found *out) {
    // cppcheck-suppress ctuuninitvar ; `out` is only written to
    struct search search = {(uint64_t)(uintptr_t)address, out};
    return dl_iterate_phdr(look_at, &search) != 0;
}

static bool find(const void *address, struct found *out) {
#ifdef DLFO_STRUCT_HAS_EH_DBASE
    if (_dl_find_object) {
        struct dl_find_object object;
        if (_dl_find_object((void *)address, &object) != 0)
            return false;
        *out = (struct found){(uint64_t)(uintptr_t)object.dlfo_map_start,
                              (uint64_t)(uintptr_t)object.dlfo_map_end,
                              object.dlfo_link_map->l_addr, object.dlfo_link_map->l_name};
        return true;
    }
#endif
    return find_by_lock(address, out);
}

struct build_id {
    uint32_t len_bytes;
    uint8_t bytes[sizeof((struct ledger_module *)0)->build_id];
};

// Memory of a loaded file, NULL where it is not within the file's range, or cannot be read.
static const void *view(const struct found *file, uint64_t address, uint64_t len_bytes) {
    const void *at = (const void *)(uintptr_t)address;
    bool within =
        address >= file->start && address <= file->end && len_bytes <= file->end - address;
    return within && readable(at, len_bytes) ? at : NULL;
}

// The build id among the notes of one segment.
static bool find_build_id(const char *at, uint64_t len_bytes, struct build_id *out) {
    ElfW(Nhdr) note;
    while (len_bytes >= sizeof note) {
        memcpy(&note, at, sizeof note);
        uint64_t value_at = sizeof note + (((uint64_t)note.n_namesz + 3) & ~(uint64_t)3);
        uint64_t next_at = value_at + (((uint64_t)note.n_descsz + 3) & ~(uint64_t)3);
        if (value_at + note.n_descsz > len_bytes)
            return false;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof "GNU" &&
            memcmp(at + sizeof note, "GNU", sizeof "GNU") == 0 &&
            note.n_descsz <= sizeof out->bytes) {
            out->len_bytes = note.n_descsz;
            memcpy(out->bytes, at + value_at, note.n_descsz);
            return true;
        }
        if (next_at > len_bytes)
            return false;
        at += next_at;
        len_bytes -= next_at;
    }
    return false;
}

// The program headers of a loaded file. Nothing says that they are in memory where they are in the
// file (patchelf and packers move them): what is there is looked at with care, and taken where it
// makes sense.
static const ElfW(Phdr) * program_headers(const struct found *file, uint64_t *count) {
    const ElfW(Ehdr) *header = view(file, file->start, sizeof *header);
    if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_phentsize != sizeof(ElfW(Phdr)))
        return NULL;
    *count = header->e_phnum;
    return view(file, file->start + header->e_phoff, *count * sizeof(ElfW(Phdr)));
}

// From its notes in memory. Of a program whose segments have gaps between them (node) libc tells
// the segment that the code is in, and the kernel where the headers are (getauxval(3), AT_PHDR).
static struct build_id build_id_of(const struct found *file) {
    struct build_id id = {0};
    struct found where = *file;
    uint64_t count = 0;
    const ElfW(Phdr) *segment = program_headers(&where, &count);
    if (!segment && !file->path[0]) {
        where.start = 0;
        where.end = UINT64_MAX;
        count = getauxval(AT_PHNUM);
        segment = view(&where, getauxval(AT_PHDR), count * sizeof *segment);
    }
    for (uint64_t i = 0; segment && i < count; i++) {
        if (segment[i].p_type != PT_NOTE)
            continue;
        const char *notes = view(&where, where.bias + segment[i].p_vaddr, segment[i].p_filesz);
        if (notes && find_build_id(notes, segment[i].p_filesz, &id))
            break;
    }
    return id;
}

// The main program has no name in the link map. Asked for once: later there may be no /proc, or no
// descriptor. Two threads that ask at once write the same.
static const char *path_of(const struct found *file) {
    static LARGE char launched[LEDGER_EXE_BYTES];
    static bool is_known;
    if (file->path[0])
        return file->path;
    if (!__atomic_load_n(&is_known, __ATOMIC_ACQUIRE)) {
        char path[LEDGER_EXE_BYTES];
        process_launched(path, sizeof path);
        if (path[0])
            memcpy(launched, path, sizeof path);
        __atomic_store_n(&is_known, true, __ATOMIC_RELEASE);
    }
    return launched[0] ? launched : ledger.header->exe;
}

static uint32_t intern_path(const struct found *file) {
    const char *path = path_of(file);
    size_t bytes = strlen(path) + 1;
    uint64_t at = ledger_take(LEDGER_STRINGS, bytes, 1);
    if (at)
        memcpy(ledger.strings + at, path, bytes);
    return (uint32_t)at;
}

static uint32_t add(const struct found *found) {
    uint64_t number = ledger_take(LEDGER_MODULES, 1, sizeof(struct ledger_module));
    if (number == 0)
        return 0;
    struct ledger_module *module = &ledger.modules[number];
    module->bias = found->bias;
    module->path = intern_path(found);
    module->unloads = (uint32_t)module_unloads();
    module->start = found->start;
    struct build_id id = build_id_of(found);
    module->build_id_bytes = id.len_bytes;
    memcpy(module->build_id, id.bytes, id.len_bytes);
    // `end` makes it valid for known(): last.
    __atomic_store_n(&module->end, found->end, __ATOMIC_RELEASE);
    return (uint32_t)number;
}

// Is what stood there still what stands there? A plugin that was built anew has its old path.
static bool is_same_file(const struct ledger_module *module, const struct found *now) {
    if (now->start != module->start || now->end != module->end ||
        strcmp(path_of(now), ledger_string(module->path)) != 0)
        return false;
    struct build_id id = build_id_of(now);
    return id.len_bytes == module->build_id_bytes &&
           memcmp(id.bytes, module->build_id, id.len_bytes) == 0;
}

// Two threads may record the same module twice: harmless. Several files may have been at a place in
// turn, and each may come back: it keeps its number.
static uint32_t known(uint64_t address) {
    uint64_t count =
        __atomic_load_n(&ledger.header->regions[LEDGER_MODULES].used, __ATOMIC_ACQUIRE);
    uint32_t unloads = (uint32_t)module_unloads();
    for (uint64_t i = count; i-- > 1;) { // the newest first
        struct ledger_module *module = &ledger.modules[i];
        if (address >= __atomic_load_n(&module->end, __ATOMIC_ACQUIRE) || address < module->start)
            continue;
        if (__atomic_load_n(&module->unloads, __ATOMIC_RELAXED) == unloads)
            return (uint32_t)i;
        struct found now;
        if (find((const void *)(uintptr_t)address, &now) && is_same_file(module, &now)) {
            __atomic_store_n(&module->unloads, unloads, __ATOMIC_RELAXED);
            return (uint32_t)i;
        }
    }
    return 0;
}

uint64_t module_frame(const void *address) {
    uint64_t pc = (uint64_t)(uintptr_t)address;
    uint32_t number = known(pc);
    struct found found;
    if (number == 0 && find(address, &found))
        number = add(&found);
    if (number == 0)
        return LEDGER_FRAME(0, pc);
    return LEDGER_FRAME(number, pc - ledger.modules[number].bias);
}

void module_unloaded(void) {
    if (ledger_exists())
        ledger_count(&ledger.header->unloads);
}

HOT uint64_t module_unloads(void) {
    return __atomic_load_n(&ledger.header->unloads, __ATOMIC_RELAXED);
}
