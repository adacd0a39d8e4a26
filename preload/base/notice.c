#include "base/notice.h"
#include "base/sys.h"
#include <sys/ipc.h>

// The directory's name has six random characters: FNV-1a of it is as good as a random key.
int notice_key(const char *ledger_dir) {
    uint32_t hash = 2166136261u;
    for (; *ledger_dir; ledger_dir++)
        hash = (hash ^ (unsigned char)*ledger_dir) * 16777619u;
    return (int)(hash & 0x7fffffff) | 1; // not IPC_PRIVATE
}

void notice_send(const char *ledger_dir, const struct notice *notice) {
    long queue = sys_call(SYS_msgget, notice_key(ledger_dir), 0, 0, 0, 0, 0);
    if (queue >= 0)
        sys_call(SYS_msgsnd, queue, (long)notice, NOTICE_BYTES, IPC_NOWAIT, 0, 0);
}
