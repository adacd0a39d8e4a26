// What every neighbour of ours is watched doing: sockets, threads, malloc, a leak. Built once for
// each sanitizer and allocator; says what its calls gave.
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 4,
    ROUNDS = 50
};

static struct sockaddr_in address;

static int connect_to_listener(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        exit(90);
    return fd;
}

__attribute__((noinline)) static void leak_here(int listener) { // by its name in a report
    char byte;
    int client = connect_to_listener(), server = accept(listener, NULL, NULL);
    close(client);
    printf("end of stream: %ld\n", (long)recv(server, &byte, 1, 0));
}

static void *work(void *argument) {
    int listener = *(int *)argument;
    for (int i = 0; i < ROUNDS; i++) {
        char *text = malloc(100 + (size_t)i * 10);
        int client = connect_to_listener(), server = accept(listener, NULL, NULL);
        if (!text || client < 0 || server < 0)
            exit(91);
        strcpy(text, "hello");
        if (write(client, text, 6) != 6 || dup2(client, client) != client)
            exit(92);
        close(client);
        while (read(server, text, 100) > 0)
            ;
        close(server);
        free(text);
    }
    return NULL;
}

int main(void) {
    socklen_t bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    pthread_t threads[THREADS];
    address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 128) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &bytes) != 0)
        return 93;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, &listener);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    errno = 0;
    printf("close of nothing: %d, errno %d\n", close(-1), errno);
    printf("year: %d\n", localtime(&(time_t){time(NULL)})->tm_year + 1900);
    leak_here(listener);
    return 3;
}
