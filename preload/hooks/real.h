// The functions that we stand before, as pointers: real_close is what close would have been.
//
// A pointer starts out at a resolver and is replaced by it at the first call, so that a call before
// our constructor works and later ones pay no test. RTLD_NEXT: another preloaded library behind us
// keeps its turn. A function that the C library lacks fails with ENOSYS.
#ifndef SOCKLEAK_HOOKS_REAL_H
#define SOCKLEAK_HOOKS_REAL_H

#include "base/compiler.h"
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define REAL(need, result, name, parameters, arguments) extern result(*real_##name) parameters;
#define REAL_VARIADIC(need, result, name, parameters, fixed, arguments)                            \
    extern result(*real_##name) parameters;
#define EXPORT_ONLY(name)
#include "hooks/real.def"
#undef REAL
#undef REAL_VARIADIC
#undef EXPORT_ONLY

// Resolves all of them, and begins. Called by the constructor, or before that by the first call of
// a hook; not signal-safe (dlsym).
void real_resolve(void);

// What the library does once in a program, before the first socket is followed: reads the options,
// registers with exit and fork (process.c). Called by real_resolve().
void process_begin(void);

#endif
