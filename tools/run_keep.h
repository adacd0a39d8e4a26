// What a kept ledger directory (--ledger-dir) needs besides the ledgers, so that `sockleak report`
// tells the same later as `sockleak run` does at once.
#ifndef SOCKLEAK_TOOLS_RUN_KEEP_H
#define SOCKLEAK_TOOLS_RUN_KEEP_H

#include "run_descendants.h"
#include "run_directory.h"

// Writes into the ledgers of processes that were killed when that was. Before the directory is
// emptied; does nothing where ledgers are not kept.
void run_keep_ends(const struct run_directory *directory, const struct descendants *list);

// Writes what is in no ledger (processes that could not be watched, notes) as a JSON report beside
// them, where there is any. Finishes it.
void run_keep_rest(const struct run_directory *directory, struct report *rest);

#endif
