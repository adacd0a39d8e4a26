#include "remote.h"
#include "procfs.h"
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

enum {
    SEGMENTS_MAX = 64,
    DYNAMIC_MAX = 256, // entries
    CHAIN_MAX = 4096   // symbols looked at
};

// --- memory -------------------------------------------------------------------------------------

static int read_memory(pid_t pid, uint64_t address, void *out, size_t len_bytes) {
    size_t done = 0;
    while (done < len_bytes) {
        struct iovec here = {(char *)out + done, len_bytes - done};
        struct iovec there = {(void *)(uintptr_t)(address + done), len_bytes - done};
        ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EFAULT;
        done += (size_t)n;
    }
    return 0;
}

// --- a symbol of a loaded library ---------------------------------------------------------------

// From memory and not from its file, which may have been replaced since, or lie in another mount
// namespace.

struct image {
    pid_t pid;
    uint64_t bias;
    uint64_t symbols, strings, gnu_hash; // addresses there
};

static int read_dynamic(struct image *image, const Elf64_Phdr *segment) {
    Elf64_Dyn entries[DYNAMIC_MAX];
    size_t count = segment->p_memsz / sizeof *entries;
    if (count > DYNAMIC_MAX)
        count = DYNAMIC_MAX;
    int error =
        read_memory(image->pid, image->bias + segment->p_vaddr, entries, count * sizeof *entries);
    for (size_t i = 0; error == 0 && i < count && entries[i].d_tag != DT_NULL; i++) {
        // glibc has added the bias already, musl has not.
        uint64_t address = entries[i].d_un.d_ptr;
        address += address < image->bias ? image->bias : 0;
        if (entries[i].d_tag == DT_SYMTAB)
            image->symbols = address;
        else if (entries[i].d_tag == DT_STRTAB)
            image->strings = address;
        else if (entries[i].d_tag == DT_GNU_HASH)
            image->gnu_hash = address;
    }
    return error;
}

static int read_image(struct image *image, pid_t pid, uint64_t start) {
    Elf64_Ehdr header;
    Elf64_Phdr segments[SEGMENTS_MAX];
    *image = (struct image){.pid = pid};
    int error = read_memory(pid, start, &header, sizeof header);
    if (error < 0)
        return error;
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof *segments || header.e_phnum > SEGMENTS_MAX)
        return -EPROTO;
    error = read_memory(pid, start + header.e_phoff, segments, header.e_phnum * sizeof *segments);
    const Elf64_Phdr *dynamic = NULL;
    bool has_bias = false;
    for (int i = 0; error == 0 && i < header.e_phnum; i++) {
        if (segments[i].p_type == PT_LOAD && !has_bias) {
            image->bias = start - (segments[i].p_vaddr - segments[i].p_offset);
            has_bias = true;
        } else if (segments[i].p_type == PT_DYNAMIC) {
            dynamic = &segments[i];
        }
    }
    if (error == 0)
        error = dynamic ? read_dynamic(image, dynamic) : -EPROTO;
    return error;
}

static uint32_t gnu_hash_of(const char *name) {
    uint32_t hash = 5381;
    for (; *name; name++)
        hash = hash * 33 + (unsigned char)*name;
    return hash;
}

static bool has_name(const struct image *image, const Elf64_Sym *symbol, const char *name) {
    char found[64];
    size_t len = strlen(name) + 1;
    return len <= sizeof found &&
           read_memory(image->pid, image->strings + symbol->st_name, found, len) == 0 &&
           memcmp(found, name, len) == 0;
}

// Walks the hash table's chain (System V ABI's successor, DT_GNU_HASH): a chain ends at an odd
// hash, and the lowest bit does not count in comparisons.
static int find_symbol(const struct image *image, const char *name, uint64_t *address) {
    struct {
        uint32_t buckets, first_symbol, bloom_words, bloom_shift;
    } head;
    uint32_t hash = gnu_hash_of(name), index, chain_hash = 0;
    int error = read_memory(image->pid, image->gnu_hash, &head, sizeof head);
    if (error < 0)
        return error;
    if (head.buckets == 0)
        return -EPROTO;
    uint64_t buckets = image->gnu_hash + sizeof head + (uint64_t)head.bloom_words * 8;
    uint64_t chains = buckets + (uint64_t)head.buckets * 4;
    error = read_memory(image->pid, buckets + (uint64_t)(hash % head.buckets) * 4, &index,
                        sizeof index);
    for (int i = 0; error == 0 && i < CHAIN_MAX && index >= head.first_symbol; i++, index++) {
        Elf64_Sym symbol;
        error = read_memory(image->pid, chains + (uint64_t)(index - head.first_symbol) * 4,
                            &chain_hash, sizeof chain_hash);
        if (error == 0 && (chain_hash | 1) == (hash | 1)) {
            error = read_memory(image->pid, image->symbols + (uint64_t)index * sizeof symbol,
                                &symbol, sizeof symbol);
            if (error == 0 && has_name(image, &symbol, name)) {
                *address = image->bias + symbol.st_value;
                return 0;
            }
        }
        if (chain_hash & 1)
            break;
    }
    return error < 0 ? error : -ENOENT;
}

// --- the ledger ---------------------------------------------------------------------------------

static int find_locator(pid_t pid, uint64_t start, struct ledger_locator *out) {
    struct image image;
    uint64_t address;
    int error = read_image(&image, pid, start);
    if (error == 0 && (!image.symbols || !image.strings || !image.gnu_hash))
        error = -EPROTO;
    if (error == 0)
        error = find_symbol(&image, "sockleak_ledger_locator", &address);
    if (error == 0)
        error = read_memory(pid, address, out, sizeof *out);
    // A process that is just starting, or ending, shows half of it.
    if (error == -EFAULT || error == -ENOENT)
        error = -EPROTO;
    return error;
}

int remote_ledger_find(pid_t pid, struct remote_ledger *out) {
    *out = (struct remote_ledger){.pid = pid};
    struct procfs_mapping mapping;
    int found = procfs_find_mapping(pid, "libsockleak.so*", &mapping);
    if (found <= 0)
        return found < 0 ? found : REMOTE_NO_LIBRARY;
    free(mapping.path);
    struct ledger_locator locator;
    int error = find_locator(pid, mapping.start, &locator);
    if (error < 0)
        return error;
    if (memcmp(locator.magic, LEDGER_MAGIC, sizeof locator.magic) != 0)
        return -EPROTO;
    if (locator.address == 0)
        return REMOTE_NO_LEDGER;
    struct procfs_status status;
    error = procfs_status(pid, &status);
    if (error < 0)
        return error;
    out->parent_pid = (uint32_t)status.parent;
    out->address = locator.address;
    out->bytes = locator.bytes;
    return REMOTE_LEDGER;
}

static void overlay(void *out, uint64_t offset, size_t len_bytes, size_t at, uint32_t value) {
    if (offset <= at && at + sizeof value <= offset + len_bytes)
        memcpy((char *)out + (at - offset), &value, sizeof value);
}

int remote_ledger_read(void *ledger, uint64_t offset, void *out, size_t len_bytes) {
    const struct remote_ledger *remote = ledger;
    if (offset > remote->bytes || len_bytes > remote->bytes - offset)
        return -EFAULT;
    int error = read_memory(remote->pid, remote->address + offset, out, len_bytes);
    if (error < 0)
        return error;
    overlay(out, offset, len_bytes, offsetof(struct ledger_header, pid), (uint32_t)remote->pid);
    overlay(out, offset, len_bytes, offsetof(struct ledger_header, parent_pid), remote->parent_pid);
    return 0;
}
