// Where the ledger's memory comes from: private anonymous memory, or a shared file.
//
// Both reserve all addresses at once (PROT_NONE) and make them usable step by step, so that what is
// counted against the machine (overcommit, mlockall, a tmpfs) is what is used. A full tmpfs gives
// an error here, and not SIGBUS at a later store. Nothing here keeps a file descriptor open, locks,
// or touches errno. Signal-safe.
#ifndef SOCKLEAK_LEDGER_BACKING_H
#define SOCKLEAK_LEDGER_BACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BACKING_RANGES_MAX = 16
};

struct backing {
    char *base;
    size_t bytes;
    bool is_file;
    char path[256];         // of the file; "" for private memory
    uint64_t device, inode; // of the file; 0 where the kernel did not tell
    // What of [base, base + bytes) is ours: all of it, until some is given back. Of the two the one
    // that counts, so that a child which is forked meanwhile finds the old or the new.
    struct backing_ranges {
        struct backing_range {
            size_t from, to;
        } list[BACKING_RANGES_MAX];
        unsigned count;
    } ranges[2];
    unsigned which;
};

// Reserves `bytes` of private memory, none of it usable yet. Returns 0 or -errno.
int backing_reserve_private(struct backing *out, size_t bytes);

// The same in a new file `DIR/PID-STARTTIME.ledger` (-2, -3 ... behind it where that exists: an
// exec'd image has the pid and start time of the one before). Created O_EXCL and O_NOFOLLOW, 0600.
// Returns 0, or -errno and `out` is empty; -EFBIG where RLIMIT_FSIZE is lower, since writing would
// raise SIGXFSZ.
int backing_reserve_file(struct backing *out, size_t bytes, const char *dir);

// Makes [from, to) usable, zeroed where it was not before. Repeating it is harmless. 0 or -errno.
int backing_commit(const struct backing *backing, size_t from, size_t to);

// Gives the addresses of [from, to) back, which nobody uses, and nobody will: the program may have
// something of its own there from now on. One thread at a time. False: too many such holes.
bool backing_give_back(struct backing *backing, size_t from, size_t to);

// Is it an address of ours?
bool backing_has(const struct backing *backing, const void *address);

// Gives all addresses back, and removes the file.
void backing_discard(struct backing *backing);

// For a forked child: puts fresh memory, none of it usable yet, at the same addresses. What was
// there is gone from this process; a file stays as it is, and where it is the process's own it is
// to be removed before. Returns 0 or -errno; -EFBIG and what open_new_file() cannot do changed
// nothing, after any other error the addresses may hold nothing.
int backing_renew_private(struct backing *backing);
int backing_renew_file(struct backing *backing, const char *dir);

// Puts private memory at [from, to), zeroed, in the place of what is there, and usable at once or
// not at all; or what `page`, private memory of `bytes`, holds at the front, and takes that away.
// Who reads or writes there at the same time finds the old or the new. 0 or -errno.
int backing_replace(const struct backing *backing, size_t from, size_t to, bool usable);
int backing_replace_front(const struct backing *backing, void *page, size_t bytes);

// True where the file has that name still, and is shorter than it was made.
bool backing_is_cut(const struct backing *backing);

// Removes the file, and leaves the memory. The second one only where the name is that file's still:
// behind a chroot, or after a long time, it may be another's.
void backing_remove_file(const struct backing *backing);
void backing_remove_own_file(const struct backing *backing);

#endif
