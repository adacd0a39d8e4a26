#include "report/scratch.h"
#include "base/sys.h"
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum {
    RESERVE_BYTES = 512 << 20,
    RESERVE_MIN_BYTES = 16 << 10,
    FIRST_STEP_BYTES = 512 << 10, // enough for most reports
    LIMIT_SHARE = 16              // of the addresses that RLIMIT_AS allows: at most one in 16
};

// The program's other threads go on while a report is written, and need addresses, too.
static size_t reserve_under_limit(void) {
    struct rlimit limit;
    size_t bytes = RESERVE_BYTES;
    if (sys_call(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&limit, 0, 0) == 0 &&
        limit.rlim_cur != RLIM_INFINITY)
        while (bytes > limit.rlim_cur / LIMIT_SHARE && bytes >> 3 >= RESERVE_MIN_BYTES)
            bytes >>= 3;
    return bytes;
}

int scratch_open(struct scratch *out) {
    // Where addresses are short a smaller one still serves most programs.
    for (size_t bytes = reserve_under_limit(); bytes >= RESERVE_MIN_BYTES; bytes >>= 3) {
        void *base =
            sys_mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (!sys_failed(base)) {
            *out = (struct scratch){.base = base, .size_bytes = bytes};
            return 0;
        }
    }
    return -ENOMEM;
}

// By mmap, which worked a moment ago, and not by mprotect: that may be what failed, and is
// reported.
static bool make_usable(struct scratch *scratch, size_t bytes) {
    return !sys_failed(sys_mmap(scratch->base + scratch->committed_bytes,
                                bytes - scratch->committed_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
}

// In steps that double, so that they are few; where memory is short, what is needed.
static bool commit(struct scratch *scratch, size_t needed_bytes) {
    size_t bytes = scratch->committed_bytes ? 2 * scratch->committed_bytes : FIRST_STEP_BYTES;
    size_t page_bytes = sys_page_bytes();
    size_t least = (needed_bytes + page_bytes - 1) & ~(page_bytes - 1);
    if (bytes < least)
        bytes = least;
    if (bytes > scratch->size_bytes)
        bytes = scratch->size_bytes;
    if (!make_usable(scratch, bytes)) {
        bytes = least;
        if (!make_usable(scratch, bytes))
            return false;
    }
    scratch->committed_bytes = bytes;
    return true;
}

void *scratch_take(struct scratch *scratch, size_t bytes) {
    if (bytes > scratch->size_bytes) // also what rounding up would make 0
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > scratch->size_bytes - scratch->used_bytes)
        return NULL;
    size_t end = scratch->used_bytes + bytes;
    if (end > scratch->committed_bytes && !commit(scratch, end))
        return NULL;
    void *taken = scratch->base + scratch->used_bytes;
    scratch->used_bytes = end;
    return taken;
}

void scratch_close(struct scratch *scratch) {
    sys_munmap(scratch->base, scratch->size_bytes);
    *scratch = (struct scratch){0};
}
