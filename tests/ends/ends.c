// ends --list: the table, one row a line: name, preload or run, why.
// ends NAME: leaks one socket, and ends that way. test_ends.py runs each bare, preloaded, and by
// `sockleak run`.
#include "ends.h"
#include "rig.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) int leak_one(void) { // by its name in a report
    char byte;
    struct rig_tcp pair = rig_tcp_pair();
    rig_peer_closes(pair);
    if (recv(pair.server, &byte, 1, 0) != 0 || fcntl(pair.server, F_SETFD, 0) != 0)
        exit(99);
    return pair.server;
}

void tell_end_of(pid_t child) {
    int status = 0;
    if (waitpid(child, &status, 0) != child)
        exit(98);
    printf("child: %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

char *program_beside(const char *name) {
    static char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 64);
    char *slash = len > 0 ? memrchr(path, '/', (size_t)len) : NULL;
    if (!slash)
        skip_end("no /proc to find the other programs by");
    snprintf(slash + 1, 64, "%s", name);
    return path;
}

void skip_end(const char *reason) {
    fprintf(stderr, "skipped: %s\n", reason);
    _exit(END_SKIPPED);
}

static void list(struct ends ends) {
    for (size_t i = 0; i < ends.count; i++)
        printf("%s\t%s\t%s\n", ends.rows[i].name,
               ends.rows[i].found_by == BY_PRELOAD ? "preload" : "run",
               ends.rows[i].why ? ends.rows[i].why : "");
}

int main(int argc, char **argv) {
    const struct ends all[] = {ends_by_exit(), ends_by_signal(), ends_by_exec(),
                               ends_with_children(), ends_in_other_worlds()};
    if (argc != 2) {
        fprintf(stderr, "usage: ends --list | ends NAME\n");
        return 2;
    }
    alarm(RIG_DEADLINE_S);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(argv[1], "--list") == 0)
            list(all[i]);
        for (size_t k = 0; k < all[i].count; k++)
            if (strcmp(argv[1], all[i].rows[k].name) == 0)
                return all[i].rows[k].run(all[i].rows[k].argument);
    }
    return strcmp(argv[1], "--list") == 0 ? 0 : 2;
}
