// What recvmsg and recvmmsg bring, whichever way they were called.
#ifndef SOCKLEAK_HOOKS_MESSAGES_H
#define SOCKLEAK_HOOKS_MESSAGES_H

#include "ledger/ledger_format.h"
#include <sys/socket.h>

// After a recvmsg on `fd` that returned `n` >= 0: descriptors that came with it (SCM_RIGHTS) are
// births, and nothing at all is an end of stream.
void message_arrived(int fd, const struct msghdr *message, long n, enum ledger_call call,
                     const void *caller);

// After a recvmmsg that returned `count` messages.
void messages_arrived(int fd, const struct mmsghdr *messages, int count, const void *caller);

#endif
