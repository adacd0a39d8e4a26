#include "report/scratch.h"
#include "base/sys.h"
#include <sys/mman.h>

int scratch_open(struct scratch *out) {
    // Where addresses are short (RLIMIT_AS) a smaller one still serves most programs.
    for (size_t bytes = (size_t)512 << 20; bytes >= (size_t)1 << 14; bytes >>= 3) {
        void *base = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (!sys_failed(base)) {
            *out = (struct scratch){.base = base, .size_bytes = bytes};
            return 0;
        }
    }
    return -12; // ENOMEM
}

void *scratch_take(struct scratch *scratch, size_t bytes) {
    if (bytes > scratch->size_bytes) // also what rounding up would make 0
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > scratch->size_bytes - scratch->used_bytes)
        return NULL;
    void *taken = scratch->base + scratch->used_bytes;
    scratch->used_bytes += bytes;
    return taken;
}

void scratch_close(struct scratch *scratch) {
    sys_munmap(scratch->base, scratch->size_bytes);
    *scratch = (struct scratch){0};
}
