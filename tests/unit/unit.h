// What every unit test includes: cmocka, and tests that run in a process of their own.
#ifndef SOCKLEAK_TESTS_UNIT_UNIT_H
#define SOCKLEAK_TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> // needs those above

// A test whose body runs in a forked child: for modules with state that is set once in a process's
// life (the ledger, stderr's identity), and for limits and mounts. Asserting works there as
// elsewhere; the child dies of it, and the parent's test fails.
#define ISOLATED(name)                                                                             \
    static void name##_isolated(void);                                                             \
    static void name(void **state) {                                                               \
        (void)state;                                                                               \
        isolated_run(name##_isolated);                                                             \
    }                                                                                              \
    static void name##_isolated(void)

void isolated_run(void (*body)(void));

// In an isolated body: ends it, and the test is skipped. The reason is printed.
void isolated_skip(const char *reason) __attribute__((noreturn));

// Runs `body` in a forked child, and returns its wait status. A child's failed assertion is
// SIGABRT.
int child_status(void (*body)(void *), void *context);

// The same, and the child must end well.
void child_must_pass(void (*body)(void *), void *context);

// For an isolated body that limits the program's addresses, or locks its memory. Skips where a
// sanitizer has taken terabytes of addresses for its shadow memory, and does not lock it.
void needs_addresses_of_its_own(void);

// A new mount namespace in which mounts may be made, for an isolated body. Skips where the kernel
// does not permit it.
void own_mounts(void);

// Locks all memory, now and from here on, for an isolated body. Skips where that is not permitted,
// or where a limit on locked memory (RLIMIT_MEMLOCK, which counts what is only reserved, too) would
// be what the test meets.
void lock_memory(void);

// A directory that nobody else has, removed with all in it when the test program ends.
const char *scratch_directory(void);

// Writes a whole file.
void write_file(const char *path, const void *bytes, size_t len_bytes);

// Reads a file into `out`, NUL-terminated. Returns its length, -1 where it is not there.
long read_file(const char *path, char *out, size_t size_bytes);

#endif
