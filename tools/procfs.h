// What /proc tells of other processes. Every answer may be stale when it is given, and a process
// may end between two questions: that is an error of the one question (-ESRCH or -ENOENT), no more.
//
// Memory that is handed out is the caller's to free.
#ifndef SOCKLEAK_PROCFS_H
#define SOCKLEAK_PROCFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct procfs_status {
    pid_t parent;
    char state;           // 'R', 'S', 'Z' ...
    uint64_t start_ticks; // field 22 of /proc/PID/stat: tells two users of a pid
    char name[64];        // field 2, without the parentheses
};

// 0 or -errno; -ESRCH where there is no such process.
int procfs_status(pid_t pid, struct procfs_status *out);

// Does the process that started then still run: is it there, and no zombie?
bool procfs_runs(pid_t pid, uint64_t start_ticks);

// Calls `each` for every process that /proc lists, in rising order; stops where it returns not 0
// and returns that. -errno where /proc cannot be read.
int procfs_each_process(int (*each)(void *context, pid_t pid), void *context);

// The executable's path; NULL where it cannot be read (another user's process, a kernel thread).
// A path that was deleted or replaced ends in " (deleted)".
char *procfs_exe(pid_t pid);

// The arguments, each ended by NUL, `*len` bytes in all; NULL where there are none (a zombie).
char *procfs_cmdline(pid_t pid, size_t *len);

// The command line on one line: blanks between arguments, what is no printable ASCII as `?`; the
// name in brackets where there is none.
char *procfs_title(pid_t pid);

uid_t procfs_uid(pid_t pid); // effective; (uid_t)-1 unknown

// The inode that names a namespace (`kind` "net", "pid", "user" ...); 0 where it may not be known.
uint64_t procfs_namespace(pid_t pid, const char *kind);

struct procfs_socket {
    int fd;
    uint64_t inode;
};

// The open sockets, by inode and then by fd, the same inode once for each fd. 0 or -errno: -EACCES
// where the process is another user's.
int procfs_sockets(pid_t pid, struct procfs_socket **out, size_t *count);

// The inode of one fd's socket; 0 where it is none, is closed, or may not be known.
uint64_t procfs_socket_inode(pid_t pid, int fd);

// Whether it has an io_uring, and so may open sockets without a call that can be intercepted.
bool procfs_has_io_uring(pid_t pid);

// The protocol of a socket, such as "TCP", "TCPv6", "UNIX" (getxattr system.sockprotoname, as lsof
// asks). 0 or -errno: -ENOENT where the fd is closed, -EOPNOTSUPP where it is no socket any more.
int procfs_socket_protocol(pid_t pid, int fd, char *out, size_t out_bytes);

struct procfs_mapping {
    uint64_t start, end, offset; // of the first mapping of the file
    char *path;                  // as /proc/PID/maps has it
};

// The first mapping of a file whose name (without directories) is `name`, or starts with `name`
// where that ends in `*`. 1 found, 0 not, -errno.
int procfs_find_mapping(pid_t pid, const char *name, struct procfs_mapping *out);

// The same where only the answer counts.
int procfs_has_mapping(pid_t pid, const char *name);

// Reads a small file into out, NUL-terminated, cut where it is larger. Returns the length or
// -errno.
ssize_t procfs_read(const char *path, char *out, size_t out_bytes);

#endif
