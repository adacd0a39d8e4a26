#include "base/owner.h"
#include "base/sys.h"
#include <stdatomic.h>
#include <sys/mman.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

enum {
    PAGE_BYTES = 4096
};

THREAD_LOCAL volatile int owner_vfork_depth;

static _Atomic int owner;
static _Atomic bool memory_may_be_shared;
// One page: 1 where it was claimed, 0 in a child of fork. NULL where the kernel cannot do that.
static _Atomic int *_Atomic claim_page;

void owner_claim(void) {
    atomic_store(&owner, sys_getpid());
    _Atomic int *page = atomic_load(&claim_page);
    if (!page) {
        void *mapped =
            sys_mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (sys_failed(mapped))
            return;
        _Atomic int *expected = NULL;
        if (sys_madvise(mapped, PAGE_BYTES, MADV_WIPEONFORK) < 0 ||
            !atomic_compare_exchange_strong(&claim_page, &expected, (_Atomic int *)mapped))
            sys_munmap(mapped, PAGE_BYTES);
        page = atomic_load(&claim_page);
    }
    if (page)
        atomic_store(page, 1);
}

void owner_expect_shared_memory(void) {
    atomic_store(&memory_may_be_shared, true);
}

bool owner_is_other_process(void) {
    if (UNLIKELY(owner_vfork_depth > 0))
        return true;
    if (LIKELY(!atomic_load_explicit(&memory_may_be_shared, memory_order_relaxed)))
        return false;
    // A forked child is another process too, but the memory is its own: see owner_was_forked().
    return !owner_was_forked() && atomic_load(&owner) != sys_getpid();
}

bool owner_was_forked(void) {
    _Atomic int *page = atomic_load_explicit(&claim_page, memory_order_relaxed);
    return page && atomic_load_explicit(page, memory_order_relaxed) == 0;
}

int owner_pid(void) {
    return atomic_load(&owner);
}
