// What an end by exec becomes: says whether the socket is there, and ends.
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int main(int argc, char **argv) {
    struct stat status;
    int fd = argc > 1 ? atoi(argv[1]) : -1;
    printf("next image: fd %d is %s socket\n", fd,
           fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? "a" : "no");
    return 7;
}
