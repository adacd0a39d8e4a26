#include "ledger_view.h"
#include "base/sys.h"
#include <dlfcn.h>

const struct ledger_header *view_ledger(void) {
    const struct ledger_locator *locator = dlsym(RTLD_DEFAULT, "sockleak_ledger_locator");
    return locator ? (const struct ledger_header *)(uintptr_t)locator->address : NULL;
}

static const void *element(enum ledger_region_id id, uint64_t index, uint64_t element_bytes) {
    const struct ledger_header *header = view_ledger();
    if (!header || (index + 1) * element_bytes > header->regions[id].committed_bytes)
        return NULL;
    return (const char *)header + header->regions[id].offset + index * element_bytes;
}

uint32_t view_number(int fd) {
    const uint32_t *number = fd < 0 ? NULL : element(LEDGER_FDS, (uint64_t)fd, sizeof *number);
    return number ? *number : 0;
}

const struct ledger_record *view_record(int fd) {
    uint32_t number = view_number(fd);
    return number ? element(LEDGER_RECORDS, number, sizeof(struct ledger_record)) : NULL;
}

uint64_t view_inode(int fd) {
    struct stat status;
    return sys_fstat(fd, &status) == 0 ? status.st_ino : 0;
}

bool view_is_tracked(int fd) {
    const struct ledger_record *record = view_record(fd);
    uint64_t inode = record ? record->inode : 0, kernels = view_inode(fd);
    return inode && (inode == kernels || (inode == LEDGER_INODE_UNASKED && kernels));
}

unsigned view_tracked_fds(void) {
    const struct ledger_header *header = view_ledger();
    unsigned count = 0;
    for (uint64_t fd = 0; header && fd < header->regions[LEDGER_FDS].used; fd++)
        count += view_number((int)fd) != 0;
    return count;
}

const struct ledger_stack *view_stack(uint32_t id) {
    return id ? element(LEDGER_STACKS, id, sizeof(struct ledger_stack)) : NULL;
}

uintptr_t view_frame(uint32_t id, unsigned index) {
    const struct ledger_stack *stack = view_stack(id);
    if (!stack || index >= stack->depth)
        return 0;
    const uint64_t *frame = element(LEDGER_FRAMES, stack->first_frame + index, sizeof *frame);
    if (!frame)
        return 0;
    uint32_t number = LEDGER_FRAME_MODULE(*frame);
    const struct ledger_module *module =
        number ? element(LEDGER_MODULES, number, sizeof *module) : NULL;
    return (uintptr_t)((module ? module->bias : 0) + LEDGER_FRAME_OFFSET(*frame));
}
