// Marks in the ledger directory (ledger/mark_format.h): what watched processes said of programs
// that cannot be watched, before they became or started them. They miss none, however short it
// lived; what a program that is not watched starts itself is left to run_descendants.h.
#ifndef SOCKLEAK_TOOLS_RUN_MARKS_H
#define SOCKLEAK_TOOLS_RUN_MARKS_H

#include "run_descendants.h"
#include "run_directory.h"

// Adds all of them, those once that were seen running, too. Call it after the last look.
void run_marks_gather(struct descendants *list, const struct run_directory *directory);

#endif
