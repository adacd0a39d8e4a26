// The stress: seeded random socket operations, compared with the kernel's table. See stress.c.
#ifndef SOCKLEAK_TESTS_STRESS_H
#define SOCKLEAK_TESTS_STRESS_H

#include "model.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    PROCESSES_MAX = 8,
    THREADS_MAX = 16,
    PLACES_MAX = 64,
};

// A place that may be connected to.
struct place {
    uint8_t family; // AF_INET, AF_INET6, AF_UNIX; 0: none
    uint16_t port;
    char name[8]; // AF_UNIX: autobound, unix(7)
};

// Shared by all processes.
struct shared {
    uint64_t turn;                              // whose: see stress.c
    uint32_t gate[PROCESSES_MAX * THREADS_MAX]; // futexes, one a thread
    uint32_t failed;
    uint32_t pids[PROCESSES_MAX];
    int channel_in[PROCESSES_MAX], channel_out[PROCESSES_MAX]; // fds, for passing sockets
    struct place places[PLACES_MAX];
    uint64_t operations, checks, compared, unclear, moved, reports;
};

struct settings {
    uint64_t seed, operations;
    unsigned processes, threads, every;
    bool free, trace, no_children;
    bool seen; // nothing behind the library's back: then it waits, see preload/track/unasked.h
    const char *expectations; // a directory: see expect.c
};

extern struct shared *shared;
extern struct settings settings;

// A thread of one of the processes, or a forked child.
struct actor {
    unsigned process, number; // number: over all threads, from 0
    uint64_t random;
    uint64_t operation; // which one it is at
    unsigned depth;     // 1 in a child
    bool bare;          // a child in which another thread's malloc may be locked
};

uint64_t stress_random(struct actor *actor);
unsigned stress_below(struct actor *actor, unsigned limit);
uint64_t stress_mix(uint64_t a, uint64_t b);

// A handler that does nothing but let a call fail with EINTR. It comes now and
// then. A number may be another thread's new socket, which still blocks, or one that a process
// which has it, too, makes block again: nobody would ever write to that.
void stress_on_interruption(int signal);

// One operation, chosen by the actor's random numbers.
void operation_run(struct actor *actor);

// For --trace: what was done, and what came of it.
void stress_trace(const struct actor *actor, const char *what, long a, long b, long result);

// Makes the library report, and compares. The process's other threads must stand still. Returns
// false, after it has said what is wrong.
bool check_all(struct actor *actor);

// Writes what a tool must find in this process: a line a socket. For run.py.
void check_write_expectations(const char *path);

// The children of an operation: see children.c.
void children_fork(struct actor *actor);
void children_vfork(struct actor *actor);
void children_spawn(struct actor *actor);
void children_exec(struct actor *actor);
void children_clone_vm(struct actor *actor);
int children_after_exec(char **argv);

#endif
