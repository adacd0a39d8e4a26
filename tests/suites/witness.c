// Runs a program, and writes down which sockets each process of it has open when it ends, as the
// kernel knows them. The truth that reports are compared with; it shares no code with them.
//
//     witness DIRECTORY COMMAND [ARGUMENT...]
//
// The program has the pid, the parent and the descriptors that it would have without us: a tracer
// beside it, no relative of it, sees every thread stop at PTRACE_EVENT_EXIT (ptrace(2)), where its
// descriptors are still open, and takes a copy of each socket by pidfd_getfd(2). It writes to
// DIRECTORY/PID:
//
//     exit PID TID
//     socket PID FD INODE DOMAIN TYPE PEER_ENDED STATE QUIET_MS LOCAL PEER
//     end
//
// PEER_ENDED is 1 where poll(2) says POLLRDHUP, STATE that of tcp_info (- where it is no TCP
// socket), QUIET_MS how long ago the last segment came, LOCAL and PEER are addresses as a report
// writes them, or -. `end` follows the last process.
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    FAILED = 125,
    PIDFD_OF_THREAD = O_EXCL // PIDFD_THREAD, Linux 6.9
};

static const long TRACED = PTRACE_O_TRACEEXIT | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                           PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;

static void fail(const char *what) {
    perror(what);
    _exit(FAILED);
}

// --- what the kernel knows of a socket ----------------------------------------------------------

static void write_address(FILE *log, const struct sockaddr_storage *address, socklen_t len) {
    char text[INET6_ADDRSTRLEN] = "";
    if (len >= sizeof(struct sockaddr_in) && address->ss_family == AF_INET) {
        const struct sockaddr_in *inet = (const void *)address;
        inet_ntop(AF_INET, &inet->sin_addr, text, sizeof text);
        fprintf(log, " %s:%u", text, ntohs(inet->sin_port));
    } else if (len >= sizeof(struct sockaddr_in6) && address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *inet6 = (const void *)address;
        inet_ntop(AF_INET6, &inet6->sin6_addr, text, sizeof text);
        fprintf(log, " [%s", text);
        if (inet6->sin6_scope_id)
            fprintf(log, "%%%u", inet6->sin6_scope_id);
        fprintf(log, "]:%u", ntohs(inet6->sin6_port));
    } else {
        fputs(" -", log);
    }
}

static int option_of(int fd, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &len) == 0 ? value : -1;
}

static void write_socket(FILE *log, pid_t pid, int number, int fd, uintmax_t inode) {
    struct pollfd ended = {.fd = fd, .events = POLLRDHUP};
    poll(&ended, 1, 0);
    fprintf(log, "socket %d %d %ju %d %d %d", pid, number, inode, option_of(fd, SO_DOMAIN),
            option_of(fd, SO_TYPE), (ended.revents & POLLRDHUP) != 0);
    struct tcp_info info;
    socklen_t len = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
        fprintf(log, " %u %u", info.tcpi_state, info.tcpi_last_ack_recv);
    else
        fputs(" - -", log);
    struct sockaddr_storage address;
    len = sizeof address;
    write_address(log, &address, getsockname(fd, (void *)&address, &len) == 0 ? len : 0);
    len = sizeof address;
    write_address(log, &address, getpeername(fd, (void *)&address, &len) == 0 ? len : 0);
    fputc('\n', log);
}

// --- a process at its end -----------------------------------------------------------------------

// The process that a thread belongs to.
static pid_t process_of(pid_t tid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", tid);
    FILE *status = fopen(path, "re");
    pid_t pid = tid;
    while (status && fgets(line, sizeof line, status)) {
        if (strncmp(line, "Tgid:", 5) == 0)
            pid = (pid_t)strtol(line + 5, NULL, 10);
    }
    if (status)
        fclose(status);
    return pid;
}

static void write_ending(FILE *log, pid_t tid) {
    pid_t pid = process_of(tid);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", tid);
    DIR *directory = opendir(path);
    // Of the thread, where the kernel can: the first one may have ended already.
    int process = (int)syscall(SYS_pidfd_open, tid, PIDFD_OF_THREAD);
    if (process < 0)
        process = (int)syscall(SYS_pidfd_open, pid, 0);
    fprintf(log, "exit %d %d\n", pid, tid);
    const struct dirent *entry;
    while (directory && process >= 0 && (entry = readdir(directory))) {
        if (entry->d_name[0] == '.')
            continue;
        int number = (int)strtol(entry->d_name, NULL, 10);
        struct stat about;
        if (fstatat(dirfd(directory), entry->d_name, &about, 0) != 0 || !S_ISSOCK(about.st_mode))
            continue;
        int fd = (int)syscall(SYS_pidfd_getfd, process, number, 0);
        if (fd < 0) {
            fprintf(log, "unknown %d %d %ju %s\n", pid, number, (uintmax_t)about.st_ino,
                    strerror(errno));
            continue;
        }
        write_socket(log, pid, number, fd, about.st_ino);
        close(fd);
    }
    if (directory)
        closedir(directory);
    if (process >= 0)
        close(process);
    fflush(log);
}

// --- the tracer ---------------------------------------------------------------------------------

// Lets a stopped thread go on as it would without us.
static void go_on(pid_t tid, int status) {
    int signal_number = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_STOP) {
        bool group_stop = signal_number == SIGSTOP || signal_number == SIGTSTP ||
                          signal_number == SIGTTIN || signal_number == SIGTTOU;
        ptrace(group_stop ? PTRACE_LISTEN : PTRACE_CONT, tid, NULL, NULL);
    } else {
        ptrace(PTRACE_CONT, tid, NULL, event ? 0L : (long)signal_number);
    }
}

static void trace(FILE *log) {
    for (;;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0 && errno == EINTR)
            continue;
        if (tid < 0)
            break; // ECHILD: nobody is left
        if (!WIFSTOPPED(status))
            continue;
        if (status >> 16 == PTRACE_EVENT_EXIT)
            write_ending(log, tid);
        go_on(tid, status);
    }
    fputs("end\n", log);
    fclose(log);
}

// Does not return. `ready` is closed when the program is traced.
static void be_tracer(const char *directory, pid_t program, int ready) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", directory, program);
    FILE *log = fopen(path, "we");
    if (!log)
        fail(path);
    if (ptrace(PTRACE_SEIZE, program, NULL, TRACED) != 0)
        fail("PTRACE_SEIZE");
    // Nothing of the program's is kept open: somebody waits for the end of its output.
    setsid();
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++)
        dup2(nowhere, fd);
    close_range(3, (unsigned)fileno(log) - 1, 0);
    close_range((unsigned)fileno(log) + 1, ~0U, 0);
    (void)ready; // among them
    trace(log);
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: witness DIRECTORY COMMAND [ARGUMENT...]\n");
        return 2;
    }
    pid_t program = getpid();
    int ready[2];
    if (pipe(ready) != 0)
        fail("pipe");
    pid_t between = fork();
    if (between == 0) {
        if (fork() == 0) {
            close(ready[0]);
            be_tracer(argv[1], program, ready[1]);
        }
        _exit(0);
    }
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); // Yama, and not root
    waitpid(between, NULL, 0);
    close(ready[1]);
    char byte;
    while (read(ready[0], &byte, 1) < 0 && errno == EINTR)
        ;
    close(ready[0]);
    // Only the witness itself is unwatched: the library is for the program.
    const char *preload = getenv("WITNESS_PRELOAD");
    if (preload) {
        setenv("LD_PRELOAD", preload, 1);
        unsetenv("WITNESS_PRELOAD");
    }
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
