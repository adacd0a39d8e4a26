// Descriptors for a moment, also where the process has none left (EMFILE): work is then done by a
// thread that lives for as long as the work, and has a descriptor table of its own. In that table
// are stdin, stdout and stderr, and what the work opens; the program's table is not touched, and
// no file of the program's is held open by it.
#ifndef SOCKLEAK_BASE_APART_H
#define SOCKLEAK_BASE_APART_H

// Calls work(context), once. Here, where a descriptor is free; else in such a thread, for which the
// caller waits. Returns 0; or why no descriptor was to be had: -EMFILE (no such thread could be
// made: a limit, or Linux before 5.9) or -ENFILE. The work was done then too, here, without one.
//
// The thread has the caller's thread-local variables, signal mask and name for itself meanwhile,
// but a thread number and a stack (256 KB) of its own. The work opens files and closes them again;
// it must not ask about the program's descriptors but 0 to 2. Signal-safe.
int apart_run(void (*work)(void *context), void *context);

#endif
