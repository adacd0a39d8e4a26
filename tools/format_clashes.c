#include "format_clashes.h"
#include "base_name.h"
#include "file_place.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// A file that is written, and the option that says so: "--format=json:leaks.json".
struct target {
    const char *option;
    const char *argument;
    const char *file;
    struct file_place place;
};

// --- what is written ----------------------------------------------------------------------------

// What two may write to, or one while it is read: a pipe, a terminal, /dev/null; and what the
// standard streams lead to, which is the business of who started us.
static bool is_stream(const char *file) {
    static const char *const names[] = {"/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/"};
    struct stat status;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(file, names[i], strlen(names[i])) == 0)
            return true;
    return stat(file, &status) == 0 && !S_ISREG(status.st_mode);
}

static void add(struct target *list, uint32_t *count, const char *option, const char *argument,
                const char *file) {
    if (!file || is_stream(file))
        return;
    struct target *target = &list[(*count)++];
    *target = (struct target){.option = option, .argument = argument, .file = file};
    file_place_find(file, &target->place);
}

static uint32_t list_targets(const struct format_options *options, struct target *list) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < options->output_count; i++)
        add(list, &count, "format", options->outputs[i].argument, options->outputs[i].file);
    add(list, &count, "output", options->output, options->output);
    return count;
}

static int check_each_other(const struct target *list, uint32_t count, const char *command) {
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(list[k].file, list[i].file) == 0 ||
                file_place_is_same(&list[k].place, &list[i].place))
                return error_usage(command,
                                   "--%s=%s and --%s=%s would write the same file: name another "
                                   "file for one of them",
                                   list[k].option, list[k].argument, list[i].option,
                                   list[i].argument);
    return STATUS_OK;
}

// --- what is read -------------------------------------------------------------------------------

// Also as one of the files in the directory `input`.
static bool is_read(const struct target *target, const char *input) {
    struct stat status;
    if (!target->place.is_there || stat(input, &status) < 0)
        return false;
    if (S_ISDIR(status.st_mode))
        return report_reads_name(base_name(target->place.path)) &&
               file_place_is_in(&target->place, input);
    return status.st_dev == target->place.device && status.st_ino == target->place.inode;
}

static int check_option(const struct target *target, const char *command, const char *option,
                        const char *const *files, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (is_read(target, files[i]))
            return error_usage(command,
                               "--%s=%s would overwrite what --%s=%s reads: name another file",
                               target->option, target->argument, option, files[i]);
    return STATUS_OK;
}

static int check_inputs(const struct target *target, const char *command, char *const *inputs) {
    for (; inputs && *inputs; inputs++)
        if (is_read(target, *inputs))
            return error_usage(command,
                               "--%s=%s would overwrite what is reported, of %s: name another file",
                               target->option, target->argument, *inputs);
    return STATUS_OK;
}

static int check_what_is_read(const struct format_options *options, const struct target *target,
                              const char *command, char *const *inputs) {
    const struct report_options *report = &options->report;
    int status = check_option(target, command, "suppressions", options->suppressions,
                              report->suppression_count);
    if (status == STATUS_OK)
        status =
            check_option(target, command, "baseline", options->baselines, report->baseline_count);
    return status == STATUS_OK ? check_inputs(target, command, inputs) : status;
}

int format_clashes_check(const struct format_options *options, const char *command,
                         char *const *inputs) {
    struct target *list = must_allocate(options->output_count + 1, sizeof *list);
    uint32_t count = list_targets(options, list);
    int status = check_each_other(list, count, command);
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++)
        status = check_what_is_read(options, &list[i], command, inputs);
    free(list);
    return status;
}
