// What /proc tells about this process. Each function opens, reads and closes; where /proc is not
// mounted the answer is empty or 0. Raw system calls: signal-safe.
#ifndef SOCKLEAK_BASE_PROCESS_H
#define SOCKLEAK_BASE_PROCESS_H

#include <stddef.h>
#include <stdint.h>

// Reads up to `size_bytes` of a file. Returns the number of bytes, or -errno.
long process_read_file(const char *path, char *out, size_t size_bytes);

// /proc/self/stat field 22 (proc(5)): clock ticks between the machine's boot and this process's
// start. 0 where it is not known.
uint64_t process_start_time_ticks(void);

// The executable's path, NUL-terminated; "" where it is not known.
void process_exe(char *out, size_t size_bytes);

// 1 where the thread still exists in this process, 0 where it is gone.
int process_has_thread(uint32_t tid);

#endif
