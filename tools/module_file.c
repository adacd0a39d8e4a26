#include "module_file.h"
#include "errors.h"
#include "regular_file.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- the right file -----------------------------------------------------------------------------

// A module's path is foreign input: only a regular file that starts like ELF is handed to libdwfl,
// which would also unpack compressed files and archives, and wait for a fifo.
static int open_elf(const char *path) {
    char magic[SELFMAG];
    int fd = regular_file_open(path, 0, NULL);
    if (fd < 0)
        return fd == -EINVAL ? -ENOEXEC : fd;
    if (pread(fd, magic, sizeof magic, 0) == sizeof magic && memcmp(magic, ELFMAG, SELFMAG) == 0)
        return fd;
    close(fd);
    return -ENOEXEC;
}

static bool has_build_id(Dwfl_Module *module, const char *wanted) {
    const unsigned char *bytes;
    GElf_Addr address;
    char hex[2 * 64 + 1] = "";
    int len = dwfl_module_build_id(module, &bytes, &address);
    for (int i = 0; i < len && i < 64; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    // The ledger keeps the first 20 bytes.
    return !wanted[0] || strncmp(hex, wanted, strlen(wanted)) == 0;
}

static int open_file(struct module_file *out, const char *path, const char *build_id) {
    static char *debug_path; // NULL: libdwfl's own, ":.debug:/usr/lib/debug"
    static const Dwfl_Callbacks callbacks = {
        .find_elf = dwfl_build_id_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .section_address = dwfl_offline_section_address,
        .debuginfo_path = &debug_path,
    };
    int fd = open_elf(path);
    if (fd < 0)
        return fd;
    out->dwfl = dwfl_begin(&callbacks);
    if (out->dwfl)
        out->module = dwfl_report_offline(out->dwfl, path, path, fd);
    if (!out->module) {
        close(fd); // else it is libdwfl's now
        module_file_close(out);
        return -ENOEXEC;
    }
    dwfl_report_end(out->dwfl, NULL, NULL);
    Elf *elf = dwfl_module_getelf(out->module, &out->bias);
    if (elf && has_build_id(out->module, build_id))
        return 0;
    module_file_close(out);
    return elf ? -ESTALE : -ENOEXEC;
}

// Debian's and Fedora's place for detached debug files, which also have the symbols.
static int open_by_build_id(struct module_file *out, const char *build_id) {
    char path[256];
    if (strlen(build_id) < 3)
        return -ENOENT;
    snprintf(path, sizeof path, "/usr/lib/debug/.build-id/%.2s/%s.debug", build_id, build_id + 2);
    return open_file(out, path, build_id);
}

// The file of a process in a container, which has another root.
static int open_in_process(struct module_file *out, const struct report_module *module) {
    char *path = NULL;
    if (module->pid == 0 || module->path[0] != '/' ||
        asprintf(&path, "/proc/%u/root%s", module->pid, module->path) < 0)
        return -ENOENT;
    int error = open_file(out, path, module->build_id);
    free(path);
    return error;
}

// Whether a path means another file to the process than to us: it has another root (chroot) or
// other mounts (a container, systemd's PrivateTmp).
static bool has_other_files(const struct report_module *module) {
    char path[64], theirs[64], ours[64];
    struct stat root, own_root;
    snprintf(path, sizeof path, "/proc/%u/root", module->pid);
    if (module->pid == 0 || stat(path, &root) < 0 || stat("/", &own_root) < 0)
        return false;
    if (root.st_dev != own_root.st_dev || root.st_ino != own_root.st_ino)
        return true;
    snprintf(path, sizeof path, "/proc/%u/ns/mnt", module->pid);
    ssize_t len = readlink(path, theirs, sizeof theirs);
    return len > 0 && readlink("/proc/self/ns/mnt", ours, sizeof ours) == len &&
           memcmp(theirs, ours, (size_t)len) != 0;
}

static void describe_problem(struct report *report, struct report_module *module, int error) {
    const char *why = error == -ESTALE   ? "was replaced since the program ran (other build id): "
                                           "its functions are not named"
                      : error == -ENOENT ? "is not there any more: its functions are not named"
                      : error == -EACCES ? "may not be read: its functions are not named"
                                         : "cannot be read: its functions are not named";
    // The kernel's own code in each process has no file.
    if (strncmp(module->path, "linux-vdso", 10) != 0 && strcmp(module->path, "[vdso]") != 0)
        module->problem = arena_format(&report->arena, "%s %s", module->path, why);
}

// --- symbols ------------------------------------------------------------------------------------

static int rank_of(const GElf_Sym *symbol) {
    int bind = GELF_ST_BIND(symbol->st_info);
    int rank = bind == STB_GLOBAL ? 4 : bind == STB_WEAK ? 2 : 0;
    return rank + (symbol->st_size != 0);
}

static int by_address(const void *a, const void *b) {
    const struct module_symbol *one = a, *other = b;
    if (one->address != other->address)
        return one->address < other->address ? -1 : 1;
    if (one->rank != other->rank)
        return one->rank < other->rank ? -1 : 1;
    return strcmp(other->name, one->name);
}

// libdwfl's own look-up walks the whole table each time.
static void read_symbols(struct module_file *file) {
    int count = dwfl_module_getsymtab(file->module);
    if (count <= 0)
        return;
    file->symbols = must_allocate((size_t)count, sizeof *file->symbols);
    for (int i = 1; i < count; i++) {
        GElf_Sym symbol;
        GElf_Addr address;
        GElf_Word section;
        const char *name =
            dwfl_module_getsym_info(file->module, i, &symbol, &address, &section, NULL, NULL);
        int type = GELF_ST_TYPE(symbol.st_info);
        if (!name || !name[0] || section == SHN_UNDEF ||
            (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE) ||
            (type == STT_NOTYPE && (name[0] == '$' || name[0] == '.')))
            continue;
        address -= file->bias;
        file->symbols[file->symbol_count++] = (struct module_symbol){
            .address = address,
            .end = symbol.st_size ? address + symbol.st_size : 0,
            .name = name,
            .rank = rank_of(&symbol) + (type == STT_NOTYPE ? -8 : 0),
        };
    }
    qsort(file->symbols, file->symbol_count, sizeof *file->symbols, by_address);
}

const struct module_symbol *module_file_symbol(const struct module_file *file, GElf_Addr address) {
    size_t low = 0, high = file->symbol_count; // the first behind `address`
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (file->symbols[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    // Back over those that ended before it: an outer function may follow an inner label.
    for (size_t i = low, tries = 0; i-- > 0 && tries < 16; tries++) {
        const struct module_symbol *symbol = &file->symbols[i];
        if (symbol->end == 0 && i + 1 == low)
            return symbol; // assembler's, without a size: up to the next one
        if (address < symbol->end)
            return symbol;
    }
    return NULL;
}

// ------------------------------------------------------------------------------------------------

int module_file_open(struct module_file *out, struct report *report, struct report_module *module) {
    *out = (struct module_file){0};
    int error = -ENOENT;
    // Its own file first: without a build id, ours of that name would be taken for it.
    if (has_other_files(module))
        error = open_in_process(out, module);
    if (error < 0 && module->path[0] == '/')
        error = open_file(out, module->path, module->build_id);
    if (error < 0 && open_in_process(out, module) == 0)
        error = 0;
    if (error < 0 && open_by_build_id(out, module->build_id) == 0)
        error = 0;
    if (error < 0) {
        describe_problem(report, module, error);
        return -ENOENT;
    }
    out->dwarf = dwfl_module_getdwarf(out->module, &out->dwarf_bias);
    read_symbols(out);
    return 0;
}

void module_file_close(struct module_file *file) {
    free(file->symbols);
    if (file->dwfl)
        dwfl_end(file->dwfl);
    *file = (struct module_file){0};
}
