#include "base/owner.h"
#include "base/sys.h"
#include <sys/mman.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

enum {
    PAGE_BYTES = 4096
};

HOT_THREAD_LOCAL volatile int owner_vfork_depth;

static _Atomic int owner;
enum {
    MEMORY_MAY_BE_SHARED = 1,
    SANDBOXED = 2
};
HOT_DATA _Atomic int owner_doubts;
HOT_DATA _Atomic int *_Atomic owner_claim_page;

void owner_claim(void) {
    atomic_store(&owner, sys_getpid());
    _Atomic int *page = atomic_load(&owner_claim_page);
    if (!page) {
        void *mapped =
            sys_mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (sys_failed(mapped))
            return;
        _Atomic int *expected = NULL;
        if (sys_madvise(mapped, PAGE_BYTES, MADV_WIPEONFORK) < 0 ||
            !atomic_compare_exchange_strong(&owner_claim_page, &expected, (_Atomic int *)mapped))
            sys_munmap(mapped, PAGE_BYTES);
        page = atomic_load(&owner_claim_page);
    }
    if (page)
        atomic_store(page, 1);
}

void owner_expect_shared_memory(void) {
    if (owner_vfork_depth > 0 || owner_is_sandboxed())
        return; // the owner is not this process, or does nothing any more
    // Who asks later whether it is the owner needs one, even where no socket was opened so far.
    if (atomic_load(&owner) == 0)
        owner_claim();
    atomic_fetch_or(&owner_doubts, MEMORY_MAY_BE_SHARED);
}

void owner_set_sandboxed(bool sandboxed) {
    if (sandboxed)
        atomic_fetch_or(&owner_doubts, SANDBOXED);
    else
        atomic_fetch_and(&owner_doubts, ~SANDBOXED);
}

bool owner_is_sandboxed(void) {
    return atomic_load(&owner_doubts) & SANDBOXED;
}

bool owner_is_other_process_in_doubt(void) {
    if (atomic_load_explicit(&owner_doubts, memory_order_relaxed) &
        SANDBOXED) // first: getpid may be what the sandbox kills for
        return true;
    // A forked child is another process too, but the memory is its own: see owner_was_forked().
    return !owner_was_forked() && atomic_load(&owner) != sys_getpid();
}

bool owner_notices_forks(void) {
    return atomic_load(&owner_claim_page) != NULL;
}

int owner_pid(void) {
    return atomic_load(&owner);
}
