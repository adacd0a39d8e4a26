// Whose memory is this? After fork, vfork and clone the same code runs on, in a process that the
// ledger does not belong to, or in one that shares the memory of the process it does belong to.
//
// A vfork child runs our hooks in its parent's memory: if it tracked its closes, the parent's
// sockets would be gone from the ledger. Asking getpid() at every close would find out, and would
// cost a system call in every socket's life. Instead vfork is interposed and counts itself in and
// out (hooks/vfork_*.S), and only a program that made a CLONE_VM child by clone() pays for
// getpid().
#ifndef SOCKLEAK_BASE_OWNER_H
#define SOCKLEAK_BASE_OWNER_H

#include "base/compiler.h"
#include <stdatomic.h>
#include <stdbool.h>

// > 0 in a vfork child, of this thread's: child and parent share thread-local memory, and the
// parent's thread sleeps until the child has gone. Written by hooks/vfork_*.S.
extern THREAD_LOCAL volatile int owner_vfork_depth;

// Records that this process owns the ledger from now on. Allocates one page that forks wipe
// (MADV_WIPEONFORK, madvise(2)); without it forks are noticed by pthread_atfork only. Signal-safe.
void owner_claim(void);

// Says that a child may share our memory without having come from vfork (clone with CLONE_VM and
// without CLONE_THREAD): from now on owner_is_other_process() asks the kernel. Claims the memory
// for this process where nobody has. Signal-safe.
void owner_expect_shared_memory(void);

// Why owner_is_other_process() must look closer, together in one word: every hook reads it.
extern _Atomic int owner_doubts;
bool owner_is_other_process_in_doubt(void);

// True in a process that merely shares the owner's memory, or that is sandboxed: pass the call on
// and touch nothing. No system call, unless owner_expect_shared_memory() was called. Signal-safe.
static inline bool owner_is_other_process(void) {
    if (UNLIKELY(owner_vfork_depth > 0))
        return true;
    return UNLIKELY(atomic_load_explicit(&owner_doubts, memory_order_relaxed) != 0) &&
           owner_is_other_process_in_doubt();
}

// The program puts itself under seccomp(2): a system call of ours that it does not expect may kill
// it from here on, and its children. So we make none: see owner_is_other_process(). Taken back
// where the filter was not accepted. Signal-safe.
void owner_set_sandboxed(bool sandboxed);
bool owner_is_sandboxed(void);

// One page: 1 where it was claimed, 0 in a child of fork. NULL where the kernel cannot do that.
extern _Atomic int *_Atomic owner_claim_page;

// True in a forked child that has not called owner_claim() yet. No system call. Signal-safe.
static inline bool owner_was_forked(void) {
    _Atomic int *page = atomic_load_explicit(&owner_claim_page, memory_order_relaxed);
    return LIKELY(page) && UNLIKELY(atomic_load_explicit(page, memory_order_relaxed) == 0);
}

// False where owner_was_forked() cannot tell: before the first claim, and where the kernel is too
// old for it. Signal-safe.
bool owner_notices_forks(void);

// The pid that called owner_claim(), 0 before.
int owner_pid(void);

#endif
