// What the kernel and libc tell about this process. What opens a file of /proc reads and closes it;
// where /proc is not mounted the answer is empty or 0. Raw system calls: signal-safe.
#ifndef SOCKLEAK_BASE_PROCESS_H
#define SOCKLEAK_BASE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Reads up to `size_bytes` of a file. Returns the number of bytes, or -errno.
long process_read_file(const char *path, char *out, size_t size_bytes);

// The same of a file in /proc/self/task/`tid`.
long process_read_thread_file(uint32_t tid, const char *name, char *out, size_t size_bytes);

// /proc/self/stat field 22 (proc(5)): clock ticks between the machine's boot and this process's
// start. 0 where it is not known.
uint64_t process_start_time_ticks(void);

// The executable's path as the kernel has it, NUL-terminated; "" where it is not known.
void process_exe(char *out, size_t size_bytes);

// The main program's path where that is another file: the dynamic linker was called by its name
// (ld.so(8)), or valgrind runs the program. "" elsewhere, or where it is not known.
void process_launched(char *out, size_t size_bytes);

// glibc 2.32. Weak, so that the library also loads with an older one.
extern char __libc_single_threaded __attribute__((weak));

// True where no second thread was ever started; false also where libc does not tell.
static inline bool process_is_single_threaded(void) {
    return &__libc_single_threaded && __libc_single_threaded;
}

// 1 where the thread still exists in this process, 0 where it is gone.
int process_has_thread(uint32_t tid);

// False also where it exists and has ended: pthread_join returns as soon as the thread has given up
// its memory, and the kernel removes it later (PF_EXITING in /proc/self/task/TID/stat field 9).
// Without /proc, or a descriptor to read it by, as process_has_thread().
bool process_thread_runs(uint32_t tid);

#endif
