// Marks in a ledger directory: what a process that can be watched says of one that cannot, and that
// it is about to become or has started. `sockleak run` gathers them at the end. Shared with tools/.
//
// A mark is a symbolic link that leads nowhere: its name tells the process, its target what there
// is to say. symlink(2) makes it at once and whole, replaces nothing, follows nothing, and needs no
// descriptor, so that it works in a vfork child and in a process that has none left.
//
//     unwatched-PID-N -> PROBLEM PATH        PROBLEM: enum program_problem (base/program.h)
//
// N from 1 tells the marks of a pid. PID 0: the C library started it, and does not tell its pid.
// Other users may be allowed to make marks, too (see preload/README.md): a reader trusts none
// of it.
#ifndef SOCKLEAK_LEDGER_MARK_FORMAT_H
#define SOCKLEAK_LEDGER_MARK_FORMAT_H

#define MARK_UNWATCHED "unwatched-"

#endif
