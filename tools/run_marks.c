#include "run_marks.h"
#include "base/program.h"
#include "ledger/mark_format.h"
#include "visibility.h"
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool parse_name(const char *name, pid_t *pid) {
    size_t len = strlen(MARK_UNWATCHED);
    if (strncmp(name, MARK_UNWATCHED, len) != 0)
        return false;
    char *end;
    long number = strtol(name + len, &end, 10);
    *pid = (pid_t)number;
    return end > name + len && *end == '-' && number >= 0 && number <= INT_MAX;
}

static void add_mark(struct descendants *list, int dir, const char *name) {
    char target[PROGRAM_NAME_BYTES + 16], *end;
    pid_t pid;
    if (!parse_name(name, &pid))
        return;
    ssize_t len = readlinkat(dir, name, target, sizeof target - 1);
    if (len <= 0)
        return;
    target[len] = '\0';
    unsigned long problem = strtoul(target, &end, 10);
    const char *text = visibility_problem(problem < PROGRAM_PROBLEMS ? (enum program_problem)problem
                                                                     : PROGRAM_FINE);
    if (text && *end == ' ')
        descendants_add_marked(list, pid, end + 1, text);
}

void run_marks_gather(struct descendants *list, const struct run_directory *directory) {
    DIR *dir = opendir(directory->path);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        add_mark(list, dirfd(dir), entry->d_name);
    if (dir)
        closedir(dir);
}
