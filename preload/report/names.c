#include "report/names.h"
#include "ledger/ledger_format.h"
#include <errno.h>
#include <stddef.h>

#define NAME_AT(table, index)                                                                      \
    ((index) < sizeof(table) / sizeof *(table) && (table)[index] ? (table)[index] : "unknown")

const char *name_of_call(uint8_t call) {
    static const char *const names[CALL_COUNT] = {
        [CALL_UNKNOWN] = "unknown",
        [CALL_SOCKET] = "socket",
        [CALL_SOCKETPAIR] = "socketpair",
        [CALL_ACCEPT] = "accept",
        [CALL_ACCEPT4] = "accept4",
        [CALL_RECVMSG] = "recvmsg",
        [CALL_RECVMMSG] = "recvmmsg",
        [CALL_PIDFD_GETFD] = "pidfd_getfd",
        [CALL_CONNECT] = "connect",
        [CALL_DUP] = "dup",
        [CALL_DUP2] = "dup2",
        [CALL_DUP3] = "dup3",
        [CALL_FCNTL] = "fcntl",
        [CALL_READ] = "read",
        [CALL_READV] = "readv",
        [CALL_RECV] = "recv",
        [CALL_RECVFROM] = "recvfrom",
        [CALL_PREADV2] = "preadv2",
        [CALL_SPLICE] = "splice",
        [CALL_SHUTDOWN] = "shutdown",
        [CALL_SYSCALL] = "syscall",
    };
    return NAME_AT(names, call);
}

const char *name_of_state(uint8_t state) {
    static const char *const names[] = {
        [STATE_ESTABLISHED] = "ESTABLISHED",
        [STATE_SYN_SENT] = "SYN_SENT",
        [STATE_SYN_RECV] = "SYN_RECV",
        [STATE_FIN_WAIT1] = "FIN_WAIT1",
        [STATE_FIN_WAIT2] = "FIN_WAIT2",
        [STATE_TIME_WAIT] = "TIME_WAIT",
        [STATE_CLOSE] = "CLOSE",
        [STATE_CLOSE_WAIT] = "CLOSE_WAIT",
        [STATE_LAST_ACK] = "LAST_ACK",
        [STATE_LISTEN] = "LISTEN",
        [STATE_CLOSING] = "CLOSING",
    };
    return NAME_AT(names, state);
}

const char *name_of_error(uint16_t error) {
    switch (error) {
    case ECONNRESET:
        return "ECONNRESET";
    case EPIPE:
        return "EPIPE";
    case ETIMEDOUT:
        return "ETIMEDOUT";
    case EHOSTUNREACH:
        return "EHOSTUNREACH";
    case ENETUNREACH:
        return "ENETUNREACH";
    case ECONNABORTED:
        return "ECONNABORTED";
    default:
        return "unknown";
    }
}

const char *name_of_provenance(uint8_t provenance) {
    static const char *const names[] = {
        [PROVENANCE_CREATED] = "created",
        [PROVENANCE_RECEIVED] = "received",
        [PROVENANCE_ADOPTED] = "adopted",
        [PROVENANCE_FOUND] = "found",
    };
    return NAME_AT(names, provenance);
}
