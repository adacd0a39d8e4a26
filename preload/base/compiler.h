// What the compiler must be told, in one place.
#ifndef SOCKLEAK_BASE_COMPILER_H
#define SOCKLEAK_BASE_COMPILER_H

// An interposed function. All else is hidden: a symbol of ours that a program could bind to by
// accident would change that program.
#define EXPORT __attribute__((visibility("default")))

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NOINLINE __attribute__((noinline))
#define COLD __attribute__((cold, noinline))
// What runs in each socket's life lies side by side: by then the kernel's own work has had all of
// it out of the caches, and what counts is how many lines and pages must come back; and how many
// branches are taken, which nothing predicts by then. LIKELY makes its common way a straight one.
#define HOT __attribute__((hot))
// And the variables that it reads.
#define HOT_DATA __attribute__((section("sockleak_hot")))
// All that it calls, and that is not NOINLINE, becomes part of it: a call and a return that nothing
// has predicted yet, and the registers that they save, are dear.
#define FLAT __attribute__((flatten))

// A large variable that only some processes touch: kept away from those that all do, which would
// come to lie on more pages.
#define LARGE __attribute__((section(".bss.sockleak_large")))

// A preloaded library is there before the first thread, so its thread-local variables can live in
// static TLS. The default model would call __tls_get_addr, which mallocs at a thread's first use.
#define THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))
// Of those, what each socket's life reads; where they are defined.
#define HOT_THREAD_LOCAL THREAD_LOCAL __attribute__((section(".tbss.sockleak_hot")))

// Where the caller of an interposed function goes on: frame #0 of every stack that we record.
#define CALLER __builtin_return_address(0)

#endif
