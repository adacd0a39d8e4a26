#include "remote_modules.h"
#include "errors.h"
#include "gather.h"
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

enum {
    SEGMENTS_MAX = 64,
    NOTES_BYTES = 4096,
    BUILD_ID_BYTES = 20 // as the ledger keeps it
};

// --- mappings -----------------------------------------------------------------------------------

static bool parse_line(struct report *report, char *line, struct remote_mapping *out) {
    static const char deleted[] = " (deleted)"; // proc(5)
    int path_at = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %*s %n", &out->start, &out->end,
               &out->offset, &path_at) != 3)
        return false;
    char *path = line + path_at;
    size_t len = strlen(path), tail = sizeof deleted - 1;
    if (len > tail && strcmp(path + len - tail, deleted) == 0)
        path[len - tail] = '\0';
    out->path = arena_name(&report->arena, path);
    return true;
}

int remote_modules_read(struct remote_modules *out, struct report *report, pid_t pid) {
    char path[32];
    char *line = NULL;
    size_t line_room = 0;
    uint32_t room = 0;
    *out = (struct remote_modules){.pid = pid, .report = report};
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? -ESRCH : -errno;
    while (getline(&line, &line_room, file) > 0) {
        if (out->count == room) {
            room = room ? 2 * room : 128;
            out->list = must_reallocate(out->list, room, sizeof *out->list);
        }
        out->count += parse_line(report, line, &out->list[out->count]);
    }
    free(line);
    fclose(file);
    return 0;
}

void remote_modules_free(struct remote_modules *modules) {
    free(modules->list);
    modules->list = NULL;
    modules->count = 0;
}

const struct remote_mapping *remote_modules_find(const struct remote_modules *modules,
                                                 uint64_t address) {
    uint32_t low = 0, high = modules->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (modules->list[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    bool is_in = low < modules->count && modules->list[low].start <= address;
    return is_in ? &modules->list[low] : NULL;
}

// --- modules ------------------------------------------------------------------------------------

static bool read_memory(pid_t pid, uint64_t address, void *out, size_t len_bytes) {
    struct iovec here = {out, len_bytes}, there = {(void *)(uintptr_t)address, len_bytes};
    return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)len_bytes;
}

static void find_build_id(const char *notes, size_t bytes, char *hex) {
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= bytes;) {
        Elf64_Nhdr note;
        memcpy(&note, notes + at, sizeof note);
        size_t name = at + sizeof note, content = name + ((note.n_namesz + 3u) & ~(size_t)3);
        size_t next = content + ((note.n_descsz + 3u) & ~(size_t)3);
        if (next > bytes || next <= at)
            return;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            memcmp(notes + name, "GNU", 4) == 0) {
            for (size_t i = 0; i < note.n_descsz && i < BUILD_ID_BYTES; i++)
                sprintf(hex + 2 * i, "%02x", (unsigned char)notes[content + i]);
            return;
        }
        at = next;
    }
}

// Where the file's first byte is mapped: what ld.so mapped together lies in rising order.
static const struct remote_mapping *first_mapping(const struct remote_modules *modules,
                                                  const struct remote_mapping *mapping) {
    while (mapping > modules->list && mapping->offset != 0) {
        const struct remote_mapping *before = mapping - 1;
        while (before > modules->list && before->path[0] == '\0')
            before--;
        if (strcmp(before->path, mapping->path) != 0)
            break;
        mapping = before;
    }
    return mapping->offset == 0 ? mapping : NULL;
}

// From memory, not from the file, which may have been replaced since.
static bool read_image(const struct remote_modules *modules, uint64_t start, uint64_t *bias,
                       char *build_id) {
    Elf64_Ehdr header;
    Elf64_Phdr segments[SEGMENTS_MAX];
    char notes[NOTES_BYTES];
    bool has_bias = false;
    if (!read_memory(modules->pid, start, &header, sizeof header) ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof *segments || header.e_phnum > SEGMENTS_MAX ||
        !read_memory(modules->pid, start + header.e_phoff, segments,
                     header.e_phnum * sizeof *segments))
        return false;
    for (int i = 0; i < header.e_phnum && !has_bias; i++)
        if (segments[i].p_type == PT_LOAD) {
            *bias = start - (segments[i].p_vaddr - segments[i].p_offset);
            has_bias = true;
        }
    for (int i = 0; has_bias && i < header.e_phnum && !build_id[0]; i++) {
        size_t bytes = segments[i].p_filesz < sizeof notes ? segments[i].p_filesz : sizeof notes;
        if (segments[i].p_type == PT_NOTE &&
            read_memory(modules->pid, *bias + segments[i].p_vaddr, notes, bytes))
            find_build_id(notes, bytes, build_id);
    }
    return has_bias;
}

struct report_address remote_modules_address(const struct remote_modules *modules,
                                             uint64_t address) {
    struct report_address found = {.offset = address};
    const struct remote_mapping *mapping = remote_modules_find(modules, address);
    const struct remote_mapping *first =
        mapping && mapping->path[0] == '/' ? first_mapping(modules, mapping) : NULL;
    char build_id[2 * BUILD_ID_BYTES + 1] = "";
    uint64_t bias = 0;
    if (!first || !read_image(modules, first->start, &bias, build_id))
        return found;
    found.module = gather_module(modules->report, mapping->path, build_id);
    found.module->pid = (uint32_t)modules->pid;
    found.offset = address - bias;
    return found;
}
