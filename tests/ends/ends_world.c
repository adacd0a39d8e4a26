// Ends in another root, user, PID namespace, or container.
#include "ends.h"
#include "rig.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    NOBODY = 65534
};

static void need(int result, const char *what) {
    if (result == 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    skip_end("needs root, or these namespaces");
}

static int by_chroot(int unused) {
    char dir[] = "/tmp/sockleak-test-XXXXXX";
    (void)unused;
    if (!mkdtemp(dir))
        return 1;
    int denied = chroot(dir);
    rmdir(dir); // the root of a process that has it already may go
    need(denied, "chroot");
    need(chdir("/"), "chdir");
    leak_one();
    return 71;
}

static int by_drop(int unused) {
    (void)unused;
    need(setgroups(0, NULL), "setgroups");
    need(setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
    need(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
    leak_one();
    printf("uid %d\n", (int)getuid());
    return 72;
}

static int by_drop_after_the_leak(int unused) {
    (void)unused;
    leak_one();
    need(setgroups(0, NULL), "setgroups");
    need(setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
    need(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
    return 73;
}

static int by_pid_namespace(int leak_before) {
    need(unshare(CLONE_NEWPID), "unshare(CLONE_NEWPID)");
    if (leak_before)
        close(leak_one());
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        leak_one();
        printf("pid %d\n", (int)getpid());
        exit(74);
    }
    tell_end_of(pid);
    return 75;
}

// What container runtimes do: an empty root of one's own by pivot_root, without /proc and /dev.
static int by_container(int leak_before) {
    char dir[] = "/tmp/sockleak-test-XXXXXX";
    need(unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)");
    need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount");
    if (leak_before)
        leak_one();
    if (!mkdtemp(dir))
        return 1;
    int denied = mount("none", dir, "tmpfs", 0, "size=64k") || chdir(dir) ||
                 syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/");
    need(denied, "pivot_root");
    if (!leak_before)
        leak_one();
    printf("/proc: %d\n", access("/proc", F_OK));
    return 76;
}

static const struct end rows[] = {
    {"chroot", by_chroot, 0, BY_PRELOAD, NULL},
    {"setresuid, then the leak", by_drop, 0, BY_PRELOAD, NULL},
    {"the leak, then setresuid", by_drop_after_the_leak, 0, BY_PRELOAD, NULL},
    {"unshare(PID namespace), its init", by_pid_namespace, 0, BY_PRELOAD, NULL},
    {"unshare(PID namespace) after the first socket", by_pid_namespace, 1, BY_PRELOAD, NULL},
    {"container without /proc, then the leak", by_container, 0, BY_PRELOAD, NULL},
    {"the leak, then a container without /proc", by_container, 1, BY_PRELOAD, NULL},
};

struct ends ends_in_other_worlds(void) {
    return (struct ends){rows, sizeof rows / sizeof *rows};
}
