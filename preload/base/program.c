#include "base/program.h"
#include "base/format.h"
#include "base/sys.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OWN_MACHINE EM_AARCH64
#endif

enum {
    SCRIPT_DEPTH = 5,  // the kernel's own limit is 4 (fs/exec.c)
    FRONT_BYTES = 256, // BINPRM_BUF_SIZE: of a #! line
    SEGMENTS_MAX = 256,
    NAMES_MAX_BYTES = 64 << 10 // of a section name table
};

static bool read_at(int fd, uint64_t offset, void *out, size_t bytes) {
    return sys_call(SYS_pread64, fd, (long)out, (long)bytes, (long)offset, 0, 0) == (long)bytes;
}

static long read_some(int fd, uint64_t offset, void *out, size_t bytes) {
    return sys_call(SYS_pread64, fd, (long)out, (long)bytes, (long)offset, 0, 0);
}

// --- ELF ----------------------------------------------------------------------------------------

static bool starts_with(const char *text, const char *front) {
    return strncmp(text, front, strlen(front)) == 0;
}

static bool is_of_glibc(const char *interpreter) {
    const char *slash = strrchr(interpreter, '/');
    const char *base = slash ? slash + 1 : interpreter;
    return starts_with(base, "ld-linux") || starts_with(base, "ld64.so") ||
           starts_with(base, "ld.so") || starts_with(base, "ld-2.");
}

// The dynamic linker itself (ld.so(8)), and the tools of valgrind (memcheck-amd64-linux), are
// statically linked, and run another program in their own process, with what LD_PRELOAD names.
static bool runs_another(const char *exe) {
    static const char tool[] = "-linux";
    size_t len = strlen(exe);
    return is_of_glibc(exe) || (strstr(exe, "/valgrind/") && len > sizeof tool &&
                                strcmp(exe + len - (sizeof tool - 1), tool) == 0);
}

static enum program_problem look_at_interpreter(int fd, const Elf64_Ehdr *header, const char *exe) {
    Elf64_Phdr segment;
    for (unsigned i = 0; i < header->e_phnum && i < SEGMENTS_MAX; i++) {
        if (!read_at(fd, header->e_phoff + i * sizeof segment, &segment, sizeof segment))
            break;
        if (segment.p_type != PT_INTERP)
            continue;
        char name[PROGRAM_NAME_BYTES] = "";
        size_t len = segment.p_filesz < sizeof name ? segment.p_filesz : sizeof name - 1;
        read_at(fd, segment.p_offset, name, len);
        return is_of_glibc(name) ? PROGRAM_FINE : PROGRAM_OTHER_LIBC;
    }
    return runs_another(exe) ? PROGRAM_FINE : PROGRAM_STATIC;
}

// The Go linker's sections, by the table of the sections' names.
static bool is_go(int fd, const Elf64_Ehdr *header) {
    static const char *const wanted[] = {".note.go.buildid", ".go.buildinfo"};
    enum {
        OVERLAP = 20 // longer than a wanted name
    };
    Elf64_Shdr names;
    char text[512 + 1];
    if (header->e_shstrndx == SHN_UNDEF || header->e_shentsize != sizeof names ||
        !read_at(fd, header->e_shoff + (uint64_t)header->e_shstrndx * sizeof names, &names,
                 sizeof names))
        return false;
    uint64_t size = names.sh_size < NAMES_MAX_BYTES ? names.sh_size : NAMES_MAX_BYTES;
    for (uint64_t at = 0; at < size; at += sizeof text - 1 - OVERLAP) {
        uint64_t left = size - at;
        long len = read_some(fd, names.sh_offset + at, text,
                             left < sizeof text - 1 ? left : sizeof text - 1);
        if (len <= 0)
            break;
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (memmem(text, (size_t)len, wanted[i], strlen(wanted[i]) + 1))
                return true;
    }
    return false;
}

static enum program_problem look_at_elf(int fd, const Elf64_Ehdr *header, const char *exe) {
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != OWN_MACHINE)
        return PROGRAM_FOREIGN;
    if (is_go(fd, header))
        return PROGRAM_GO;
    return look_at_interpreter(fd, header, exe);
}

// --- privileges ---------------------------------------------------------------------------------

// A set-id bit counts for nothing under no_new_privs, or on a mount with nosuid.
static bool set_id_counts(int fd) {
    struct statfs mount;
    return sys_call(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0, 0) != 1 &&
           (sys_call(SYS_fstatfs, fd, (long)&mount, 0, 0, 0, 0) < 0 ||
            !(mount.f_flags & ST_NOSUID));
}

// Whether the kernel will set AT_SECURE (security/commoncap.c, cap_bprm_creds_from_file): the new
// effective user or group is not the real one, or a user that is not root gains capabilities.
static bool is_privileged(int fd) {
    long uid = sys_call(SYS_getuid, 0, 0, 0, 0, 0, 0);
    long gid = sys_call(SYS_getgid, 0, 0, 0, 0, 0, 0);
    long new_uid = sys_call(SYS_geteuid, 0, 0, 0, 0, 0, 0);
    long new_gid = sys_call(SYS_getegid, 0, 0, 0, 0, 0, 0);
    struct stat status;
    if (sys_fstat(fd, &status) < 0)
        return false;
    bool has_capabilities =
        uid != 0 && sys_call(SYS_fgetxattr, fd, (long)"security.capability", 0, 0, 0, 0) > 0;
    if (((status.st_mode & (S_ISUID | S_ISGID)) || has_capabilities) && set_id_counts(fd)) {
        if (status.st_mode & S_ISUID)
            new_uid = status.st_uid;
        if ((status.st_mode & S_ISGID) && (status.st_mode & S_IXGRP))
            new_gid = status.st_gid;
        if (has_capabilities)
            return true;
    }
    return new_uid != uid || new_gid != gid;
}

// --- one file -----------------------------------------------------------------------------------

static int may_execute(int dir, const char *path) {
    int error = (int)sys_call(SYS_faccessat2, dir, (long)path, X_OK, AT_EACCESS, 0, 0);
    if (error == -ENOSYS) // before Linux 5.8: asks for the real user
        error = (int)sys_call(SYS_faccessat, dir, (long)path, X_OK, 0, 0, 0);
    return error;
}

// The kernel executes regular files only, and to open another may do something: a FIFO's writer
// goes on, a device begins.
static int must_be_regular(int dir, const char *path) {
    struct stat status;
    int error = (int)sys_call(SYS_newfstatat, dir, (long)path, (long)&status, 0, 0, 0);
    return error == 0 && !S_ISREG(status.st_mode) ? -EACCES : error;
}

static int open_file(int dir, const char *path) {
    int error = may_execute(dir, path);
    if (error == 0)
        error = must_be_regular(dir, path);
    return error < 0 ? error
                     : sys_openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
}

static void copy_name(const char *path, struct program *out) {
    size_t len = strnlen(path, sizeof out->exe - 1);
    memcpy(out->exe, path, len);
    out->exe[len] = '\0';
}

static void name_file(int fd, const char *path, struct program *out) {
    char link[32];
    struct text_buffer name = text_buffer(link, sizeof link);
    text_string(&name, "/proc/self/fd/");
    text_decimal(&name, (uint64_t)fd);
    long len = sys_readlinkat(AT_FDCWD, link, out->exe, sizeof out->exe - 1);
    if (len > 0)
        out->exe[len] = '\0';
    else
        copy_name(path, out);
}

// Puts the interpreter of a script into `path`. False where the file is none.
static bool follow_script(const char *front, long len, char *path) {
    if (len < 3 || front[0] != '#' || front[1] != '!')
        return false;
    const char *at = front + 2 + strspn(front + 2, " \t");
    size_t bytes = strcspn(at, " \t\n");
    if (bytes == 0 || bytes >= FRONT_BYTES)
        return false;
    memcpy(path, at, bytes);
    path[bytes] = '\0';
    return true;
}

static bool is_elf(const char *front, long len) {
    return len >= (long)sizeof(Elf64_Ehdr) && memcmp(front, ELFMAG, SELFMAG) == 0;
}

static int judge(int fd, const char *front, long len, const char *path, struct program *out,
                 enum program_problem otherwise) {
    if (!is_elf(front, len))
        return -ENOEXEC;
    Elf64_Ehdr header;
    memcpy(&header, front, sizeof header);
    name_file(fd, path, out);
    out->problem = look_at_elf(fd, &header, out->exe);
    if (out->problem == PROGRAM_FINE && is_privileged(fd))
        out->problem = PROGRAM_PRIVILEGED;
    if (out->problem == PROGRAM_FINE)
        out->problem = otherwise;
    return 0;
}

// The kernel does not read the file as this user, and without a free descriptor it may run it, too.
static int judge_unopened(int error, int dir, const char *path, struct program *out) {
    if (may_execute(dir, path) < 0 || must_be_regular(dir, path) < 0)
        return error;
    out->problem = PROGRAM_UNREADABLE;
    copy_name(path, out);
    return 0;
}

int program_look(int dir, const char *path, enum program_problem otherwise, struct program *out) {
    char front[FRONT_BYTES + 1], interpreter[FRONT_BYTES];
    out->problem = PROGRAM_FINE;
    out->exe[0] = '\0';
    for (int depth = 0; depth < SCRIPT_DEPTH; depth++) {
        int fd = open_file(dir, path);
        if (fd < 0)
            return judge_unopened(fd, dir, path, out);
        long len = read_some(fd, 0, front, sizeof front - 1);
        front[len > 0 ? len : 0] = '\0';
        bool is_script = follow_script(front, len, interpreter);
        int result = is_script ? 0 : judge(fd, front, len, path, out, otherwise);
        sys_close(fd);
        if (!is_script)
            return result;
        path = interpreter;
        dir = AT_FDCWD;
    }
    return -ELOOP;
}
