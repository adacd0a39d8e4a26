// A library that a program loads late, for frames that the unwinder has not seen.
#include <sys/socket.h>

int plugin_socket(void);
int plugin_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    __asm__ volatile("" : "+r"(fd)); // no tail call
    return fd;
}
