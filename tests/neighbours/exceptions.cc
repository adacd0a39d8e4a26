// Exceptions that pass our frames: thrown in a signal handler that interrupts a read in our wrapper
// (-fnon-call-exceptions), and in a thread that is cancelled there.
#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <stdexcept>
#include <sys/socket.h>
#include <unistd.h>

static void throw_here(int) {
    throw std::runtime_error("out of the handler");
}

struct Guard {
    const char *name;
    ~Guard() { std::printf("%s unwound\n", name); }
};

static void *wait_for_cancel(void *fd) {
    Guard guard{"cancelled thread"};
    char byte;
    while (recv(*static_cast<int *>(fd), &byte, 1, 0) > 0)
        ;
    return nullptr;
}

__attribute__((noinline)) static void leak_here() { // by its name in a report
    sockaddr_in address = {};
    socklen_t bytes = sizeof address;
    char byte;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto *where = reinterpret_cast<sockaddr *>(&address);
    if (bind(listener, where, bytes) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, where, &bytes) != 0 || connect(client, where, bytes) != 0)
        std::exit(90);
    int server = accept(listener, nullptr, nullptr);
    close(client);
    std::printf("recv %ld\n", static_cast<long>(recv(server, &byte, 1, 0)));
}

int main() {
    int fds[2];
    struct sigaction action = {};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        return 91;
    action.sa_handler = throw_here;
    sigaction(SIGALRM, &action, nullptr);
    try {
        Guard guard{"reader"};
        char byte;
        ualarm(20000, 0);
        if (recv(fds[0], &byte, 1, 0) < 0)
            std::puts("interrupted");
    } catch (const std::exception &e) {
        std::printf("caught: %s\n", e.what());
    }
    pthread_t thread;
    void *result = nullptr;
    pthread_create(&thread, nullptr, wait_for_cancel, &fds[0]);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    std::printf("cancelled: %d\n", result == PTHREAD_CANCELED);
    leak_here();
    return 8;
}
