// On which file systems a ledger file may be mapped. Shared with tools/.
#ifndef SOCKLEAK_LEDGER_FILE_SYSTEM_H
#define SOCKLEAK_LEDGER_FILE_SYSTEM_H

#include <linux/magic.h>
#include <stdbool.h>

// True where a page that was once written can always be written again. Others raise SIGBUS in the
// program for it: those that write each change to a new place (btrfs, zfs, f2fs) when the disk is
// full, and those that fetch pages from elsewhere (NFS, FUSE) when it does not answer. `type` is
// statfs(2)'s f_type. What overlayfs lies on is not known; mostly it is one of the others here.
static inline bool file_system_keeps_pages(long type) {
    return type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == EXT4_SUPER_MAGIC ||
           type == XFS_SUPER_MAGIC || type == OVERLAYFS_SUPER_MAGIC;
}

#endif
