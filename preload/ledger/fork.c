// A ledger in a forked child (ledger.h).
#include "base/process.h"
#include "base/sys.h"
#include "ledger/memory.h"
#include "ledger/sites.h"
#include <errno.h>
#include <string.h>

// A copy of what is in use, for a child whose parent runs on in the shared file.
struct image {
    struct ledger_header header;
    void *parts[LEDGER_REGIONS]; // committed_bytes of each
};

// Per thread: the handlers of pthread_atfork run in the thread that forks, and two may fork at
// once.
static THREAD_LOCAL struct image *prepared;

static void drop(struct image *image) {
    for (int i = 0; i < LEDGER_REGIONS; i++)
        if (image->parts[i])
            sys_munmap(image->parts[i], image->header.regions[i].committed_bytes);
    sys_munmap(image, sizeof *image);
}

// Copies a ledger that other threads, or the parent, are writing to. The regions are in an order in
// which each refers to later ones only (fds to records to stacks to frames to modules to strings),
// and what is referred to was complete before; so each region's size is read, and its contents are
// copied, after the regions that refer to it. NULL: no memory, or the file was cut, and there is
// none any more.
static struct image *take_image(void) {
    if (cut_is_header_gone() || cut_is_file_being_left())
        ledger_survives_cut(ledger_backing.base);
    struct image *image = cut_is_file_being_left() ? NULL : ledger_map_anonymous(sizeof *image);
    if (!image)
        return NULL;
    memcpy(&image->header, ledger.header, sizeof image->header);
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        struct ledger_region *live = &ledger.header->regions[i], *copy = &image->header.regions[i];
        copy->committed_bytes = __atomic_load_n(&live->committed_bytes, __ATOMIC_ACQUIRE);
        uint64_t used = __atomic_load_n(&live->used, __ATOMIC_RELAXED);
        uint64_t room = copy->committed_bytes / ledger_element_bytes(i);
        copy->used = used < room || copy->committed_bytes == 0 ? used : room;
        if (copy->committed_bytes == 0)
            continue;
        image->parts[i] = ledger_map_anonymous(copy->committed_bytes);
        if (!image->parts[i]) {
            drop(image);
            return NULL;
        }
        memcpy(image->parts[i], ledger_backing.base + copy->offset, copy->committed_bytes);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    }
    if (cut_is_file_being_left()) { // cut since
        drop(image);
        return NULL;
    }
    return image;
}

static int fill(const struct image *image) {
    int error = backing_commit(&ledger_backing, 0, LEDGER_HEADER_BYTES);
    if (error < 0)
        return error;
    memcpy(ledger_backing.base, &image->header, sizeof image->header);
    for (int i = 0; i < LEDGER_REGIONS; i++) {
        const struct ledger_region *region = &image->header.regions[i];
        if (region->committed_bytes == 0)
            continue;
        error = backing_commit(&ledger_backing, region->offset,
                               region->offset + region->committed_bytes);
        if (error < 0)
            return error;
        memcpy(ledger_backing.base + region->offset, image->parts[i], region->committed_bytes);
    }
    return 0;
}

// Puts the image in the place of the parent's file: as a file of our own, else as private memory.
static int adopt(const struct image *image) {
    char dir[sizeof ledger_backing.path];
    memcpy(dir, ledger_backing.path, sizeof dir);
    *strrchr(dir, '/') = '\0';
    int error = backing_renew_file(&ledger_backing, dir);
    if (error == 0) {
        error = fill(image);
        if (error < 0)
            backing_remove_file(&ledger_backing);
    }
    if (error < 0) {
        error = backing_renew_private(&ledger_backing);
        if (error == 0)
            error = fill(image);
    }
    ledger.is_file = ledger_backing.is_file;
    return error;
}

// While memory is exchanged no handler of the program may run: it could enter our hooks. Ours of
// SIGBUS may: the parent's file may be cut while it is copied.
static int leave_parents_file(void) {
    uint64_t mask = sys_block_signals();
    struct image *image = prepared ? prepared : take_image(); // _Fork and clone run no handlers
    prepared = NULL;
    if (image)
        cut_continue_in_child();
    int error = image ? adopt(image) : ledger_is_file() ? -ENOMEM : 0;
    if (image)
        drop(image);
    if (error < 0) // what is there may be our parent's: leave it alone from here on
        ledger_give_up();
    sys_set_signal_mask(mask);
    return error;
}

// That a process which forked had threads: for its children, should libc tell them otherwise.
static bool had_threads;

void ledger_prepare_fork(void) {
    if (!process_is_single_threaded())
        __atomic_store_n(&had_threads, true, __ATOMIC_RELAXED);
    ledger_note_fork(); // in front of the fork, and of the copy: the child counts on from there
    ledger_fork_done_in_parent(); // a signal handler that forks between the two: the later one
                                  // counts
    if (ledger_exists() && ledger_is_file())
        prepared = take_image();
}

void ledger_fork_done_in_parent(void) {
    struct image *image = prepared;
    prepared = NULL;
    if (image)
        drop(image);
}

// A fork copies the memory at one moment, but not the work of other threads: a record that one of
// them holds, takes or frees at that moment is nobody's here. Nor is it the moment at which the
// descriptors are copied: those come first (copy_files and copy_mm of copy_process, kernel/fork.c).
static uint64_t correct_records(void) {
    uint64_t inherited = ledger_open_sockets();
    if (!ledger_is_file() && !__atomic_load_n(&had_threads, __ATOMIC_RELAXED) &&
        process_is_single_threaded())
        return inherited; // of one thread: nothing can be wrong, and nothing needs to be looked at
    uint64_t mask = sys_block_signals();
    ledger_records_rebuild(&inherited); // where it cannot, nothing is better known
    sys_set_signal_mask(mask);
    return inherited;
}

int ledger_continue_in_child(void) {
    int error = ledger_is_file() ? leave_parents_file() : 0;
    if (error < 0)
        return error;
    uint64_t inherited = correct_records();
    struct ledger_header *header = ledger.header;
    memset(&header->counters, 0, sizeof header->counters);
    site_continue_in_child();
    header->counters.inherited = inherited;
    header->process++;
    header->ended = ENDED_RUNNING;
    header->end_status = 0;
    header->snapshot_ns = 0;
    header->exec_ns = 0; // another thread of the parent's may have been about to
    // Not getppid(): where the parent ends at once, as a daemon's does, that is who adopts the
    // child. A socket that both have is one finding, the parent's.
    uint32_t forked_by = header->pid;
    ledger_describe_process(header);
    header->parent_pid = forked_by;
    cut_keep_header();
    return 0;
}
