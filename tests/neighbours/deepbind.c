// A plugin for RTLD_DEEPBIND, which looks symbols up in itself and its own dependencies first: past
// every preloaded library. What it opens and closes is not seen by us.
#include <sys/socket.h>
#include <unistd.h>

int plugin_open(void);
void plugin_close(int fd);

int plugin_open(void) {
    return socket(AF_INET, SOCK_STREAM, 0);
}

void plugin_close(int fd) {
    close(fd);
}
