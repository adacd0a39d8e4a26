// sockleak: the subcommands, and the help for them.
#include "commands.h"
#include "errors.h"
#include "format_options.h"
#include "suggest.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {&command_run,  &command_report, &command_dump,
                                                 &command_reap, &command_scan,   NULL};

static const struct command *command_named(const char *name) {
    for (int i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

int command_finish_output(int status) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    error_say("standard output: %s", strerror(errno));
    return STATUS_FAILED;
}

int command_help(const struct command *command) {
    printf("usage: sockleak %s %s\n\n%s\noptions:\n%s", command->name, command->usage,
           command->about, command->options);
    if (command->has_format_options)
        fputs(format_options_help, stdout);
    if (command->examples)
        printf("\nexamples:\n%s", command->examples);
    return command_finish_output(STATUS_OK);
}

static int print_help(void) {
    puts("usage: sockleak COMMAND [ARGUMENT...]\n\n"
         "Finds the sockets that a program forgot to close, and the code that did.\n");
    for (int i = 0; commands[i]; i++)
        printf("  %-8s %s\n", commands[i]->name, commands[i]->summary);
    puts("  help     help COMMAND: what it takes and does\n\n"
         "  --help, --version\n\n"
         "exit status: of `run`, the command's own, or 23 where sockets leaked; 2 for\n"
         "a mistake in the command line; 1 where the work could not be done. See\n"
         "sockleak(1).");
    return command_finish_output(STATUS_OK);
}

static int no_command(const char *name) {
    const char *names[] = {"run", "report", "dump", "reap", "scan", "help", NULL};
    const char *near = suggest(name, names);
    if (near)
        return error_usage(NULL, "no command '%s': did you mean '%s'?", name, near);
    return error_usage(NULL, "no command '%s'", name);
}

static bool is_help(const char *option) {
    return strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0;
}

static int help(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "help") == 0 || is_help(argv[1]))
        return print_help();
    const struct command *command = command_named(argv[1]);
    return command ? command_help(command) : no_command(argv[1]);
}

static int wrong_option(const char *option) {
    const char *names[] = {"help", "version", NULL};
    const char *near = strncmp(option, "--", 2) == 0 ? suggest(option + 2, names) : NULL;
    if (near)
        return error_usage(NULL, "no option '%s': did you mean '--%s'?", option, near);
    return error_usage(NULL, "no option '%s' before a command", option);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        error_usage(NULL, "no command given: run, report, dump, reap or scan");
        return STATUS_USAGE;
    }
    const char *first = argv[1];
    if (is_help(first))
        return print_help();
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) {
        puts("sockleak " SOCKLEAK_VERSION);
        return command_finish_output(STATUS_OK);
    }
    if (strcmp(first, "help") == 0)
        return help(argc - 1, argv + 1);
    if (first[0] == '-')
        return wrong_option(first);
    const struct command *command = command_named(first);
    return command ? command->main(argc - 1, argv + 1) : no_command(first);
}
