// Outputs that would be written over each other, or over what is read: the report, or what it is
// made of, would be lost without a word.
#ifndef SOCKLEAK_TOOLS_FORMAT_CLASHES_H
#define SOCKLEAK_TOOLS_FORMAT_CLASHES_H

#include "format_options.h"

// `inputs`, which NULL ends, are files and directories that are read besides those of the options;
// NULL where there are none. Returns STATUS_OK, or STATUS_USAGE having said which.
int format_clashes_check(const struct format_options *options, const char *command,
                         char *const *inputs);

#endif
