#include "report/names.h"
#include "ledger/ledger_format.h"
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

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
        [CALL_READ] = "read",
        [CALL_READV] = "readv",
        [CALL_RECV] = "recv",
        [CALL_RECVFROM] = "recvfrom",
        [CALL_PREADV2] = "preadv2",
        [CALL_SPLICE] = "splice",
        [CALL_SHUTDOWN] = "shutdown",
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

// Those in which a thread may wait.
const char *name_of_system_call(int32_t number) {
    static const struct {
        int32_t number;
        const char *name;
    } names[] = {
        {SYS_read, "read"},
        {SYS_readv, "readv"},
        {SYS_preadv2, "preadv2"},
        {SYS_recvfrom, "recvfrom"},
        {SYS_recvmsg, "recvmsg"},
        {SYS_recvmmsg, "recvmmsg"},
        {SYS_write, "write"},
        {SYS_writev, "writev"},
        {SYS_sendto, "sendto"},
        {SYS_sendmsg, "sendmsg"},
        {SYS_sendfile, "sendfile"},
        {SYS_splice, "splice"},
        {SYS_connect, "connect"},
        {SYS_accept, "accept"},
        {SYS_accept4, "accept4"},
#ifdef SYS_poll
        {SYS_poll, "poll"},
#endif
        {SYS_ppoll, "ppoll"},
#ifdef SYS_select
        {SYS_select, "select"},
#endif
        {SYS_pselect6, "pselect6"},
#ifdef SYS_epoll_wait
        {SYS_epoll_wait, "epoll_wait"},
#endif
        {SYS_epoll_pwait, "epoll_pwait"},
#ifdef SYS_epoll_pwait2
        {SYS_epoll_pwait2, "epoll_pwait2"},
#endif
        {SYS_io_uring_enter, "io_uring_enter"},
        {SYS_futex, "futex"},
#ifdef SYS_futex_waitv
        {SYS_futex_waitv, "futex_waitv"},
#endif
        {SYS_nanosleep, "nanosleep"},
        {SYS_clock_nanosleep, "clock_nanosleep"},
#ifdef SYS_pause
        {SYS_pause, "pause"},
#endif
        {SYS_rt_sigtimedwait, "rt_sigtimedwait"},
        {SYS_rt_sigsuspend, "rt_sigsuspend"},
        {SYS_wait4, "wait4"},
        {SYS_waitid, "waitid"},
        {SYS_flock, "flock"},
        {SYS_fcntl, "fcntl"},
        {SYS_fsync, "fsync"},
        {SYS_close, "close"},
        {SYS_openat, "openat"},
        {SYS_ioctl, "ioctl"},
        {SYS_exit, "exit"},
        {SYS_exit_group, "exit_group"},
        {SYS_restart_syscall, "restart_syscall"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number)
            return names[i].name;
    return NULL;
}
