#include "track/modules.h"
#include "ledger/ledger.h"
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

// glibc 2.35. Weak, so that the library also loads with an older one.
#ifdef DLFO_STRUCT_HAS_EH_DBASE
extern int _dl_find_object(void *address, struct dl_find_object *result) __attribute__((weak));
#endif

struct found {
    uint64_t start, end, bias;
    const char *path;
};

static bool find_by_lock(const void *address, struct found *out) {
    Dl_info info;
    struct link_map *map = NULL;
    if (!dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
        return false;
    const ElfW(Ehdr) *header = info.dli_fbase;
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)((const char *)header + header->e_phoff);
    uint64_t end = 0;
    for (int i = 0; i < header->e_phnum; i++)
        if (segment[i].p_type == PT_LOAD && segment[i].p_vaddr + segment[i].p_memsz > end)
            end = segment[i].p_vaddr + segment[i].p_memsz;
    *out = (struct found){(uint64_t)(uintptr_t)header, map->l_addr + end, map->l_addr, map->l_name};
    return true;
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

// The build id of a loaded file, from its notes in memory.
static void copy_build_id(struct ledger_module *module) {
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)(uintptr_t)module->start;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return;
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)(uintptr_t)(module->start + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++) {
        if (segment[i].p_type != PT_NOTE)
            continue;
        const char *at = (const char *)(uintptr_t)(module->bias + segment[i].p_vaddr);
        const char *end = at + segment[i].p_memsz;
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)at;
            const char *name = at + sizeof *note;
            const char *value = name + ((note->n_namesz + 3) & ~3u);
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
                memcmp(name, "GNU", 4) == 0 && note->n_descsz <= sizeof module->build_id) {
                module->build_id_bytes = note->n_descsz;
                memcpy(module->build_id, value, note->n_descsz);
                return;
            }
            at = value + ((note->n_descsz + 3) & ~3u);
        }
    }
}

static uint32_t intern_path(const char *path) {
    if (!path[0])
        path = ledger.header->exe; // the main program has no name in the link map
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
    module->path = intern_path(found->path);
    module->unloads = (uint32_t)module_unloads();
    module->start = found->start;
    copy_build_id(module);
    // `end` makes it valid for known(): last.
    __atomic_store_n(&module->end, found->end, __ATOMIC_RELEASE);
    return (uint32_t)number;
}

// Two threads may record the same module twice: harmless.
static uint32_t known(uint64_t address) {
    uint64_t count =
        __atomic_load_n(&ledger.header->regions[LEDGER_MODULES].used, __ATOMIC_ACQUIRE);
    uint32_t unloads = (uint32_t)module_unloads();
    for (uint64_t i = count; i-- > 1;) { // the newest first
        const struct ledger_module *module = &ledger.modules[i];
        if (address < __atomic_load_n(&module->end, __ATOMIC_ACQUIRE) && address >= module->start) {
            if (module->unloads == unloads)
                return (uint32_t)i;
            // Something was unloaded since: the same file still, or another at its place?
            struct found now;
            if (find((const void *)(uintptr_t)address, &now) && now.start == module->start &&
                now.end == module->end &&
                strcmp(now.path[0] ? now.path : ledger.header->exe,
                       ledger.strings + module->path) == 0) {
                __atomic_store_n(&ledger.modules[i].unloads, unloads, __ATOMIC_RELAXED);
                return (uint32_t)i;
            }
            return 0;
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

uint64_t module_unloads(void) {
    return __atomic_load_n(&ledger.header->unloads, __ATOMIC_RELAXED);
}
