// What every test here needs: to run under the library, to run a scenario as a process of its own
// with the library or bare, and TCP connections in a known state.
//
// A scenario is a function of the test program that is run in a fresh process (fork and exec of the
// same file), with fds 0 to 2 only: stdin /dev/null, stdout and stderr captured. Run bare and
// preloaded, it tells whether the library changes anything.
#ifndef SOCKLEAK_TESTS_RIG_H
#define SOCKLEAK_TESTS_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <sys/types.h>

enum {
    RIG_DEADLINE_S = 20,
    RIG_SKIPPED = 77,
    RIG_CAPTURE_BYTES = 65536
};

struct rig_scenario {
    const char *name;
    int (*run)(void); // its result is the exit status
};

// First in main: runs the scenario that argv names and exits, or brings this process under the
// library, by exec. Exits with RIG_SKIPPED and a reason where the library is missing.
// SOCKLEAK_LIBRARY names it; else it is expected in the build directory that this program lies in.
void rig_start(int argc, char **argv, const struct rig_scenario *scenarios, size_t count);

// The library's absolute path.
const char *rig_library(void);

enum rig_mode {
    BARE,
    PRELOADED
};

struct rig_result {
    pid_t pid;
    int status; // as from waitpid
    char out[RIG_CAPTURE_BYTES], err[RIG_CAPTURE_BYTES];
};

// Runs a scenario, or kills it after RIG_DEADLINE_S. `options` becomes SOCKLEAK_OPTIONS (NULL: not
// set). Returns out.
struct rig_result *rig_run(struct rig_result *out, const char *scenario, enum rig_mode mode,
                           const char *options);

// The same for any command, found in PATH; environment entries may be added by setenv before.
struct rig_result *rig_command(struct rig_result *out, char *const *argv, enum rig_mode mode,
                               const char *options);

// A directory for this test program's files, made at the first call, and removed with what is in it
// when the program ends; or emptied before.
const char *rig_directory(void);
void rig_empty_directory(void);

// Options that keep the ledger in a file there: "ledger_dir=...", and `more` behind it (NULL: no
// more). Valid until the next call.
const char *rig_ledger_options(const char *more);

// Asserts that a scenario ends with the same status and the same stdout bare and preloaded.
// `preloaded` (may be NULL) gets the second run, for its report.
void rig_assert_same_as_bare(const char *scenario, const char *options,
                             struct rig_result *preloaded);

// The same for a scenario that this kernel or this user may not run, which it says by RIG_SKIPPED.
void rig_assert_same_as_bare_or_skip(const char *scenario, const char *options,
                                     struct rig_result *preloaded);

// Asserts that the words are on its stderr, and shows what is there instead.
void rig_assert_said(const struct rig_result *result, const char *words);

// Occurrences of `needle`.
unsigned rig_count(const char *haystack, const char *needle);

// How many reports there are in `err`: headlines, whatever their pid.
unsigned rig_reports(const char *err);

// --- sockets: each asserts that it worked -------------------------------------------------------

struct rig_tcp {
    int server, client; // both in this process
};

int rig_listen(void); // 127.0.0.1, any port; the caller closes

// Connects to a listener without telling the library: a peer that is none of its business.
int rig_quiet_connect(int listener);

struct rig_tcp rig_tcp_pair(void);

// Closes the client's side by a system call of our own, and waits until the FIN has arrived at the
// server's: CLOSE_WAIT.
void rig_peer_closes(struct rig_tcp pair);

// The kernel's state of a TCP socket (TCP_ESTABLISHED ...), or -1.
int rig_state(int fd);

// Waits until the kernel has the socket in this state, and for `age_ms` (CLOSE_WAIT: since the
// FIN; others: since first seen here).
void rig_wait_state(int fd, int state, unsigned age_ms);

// Waits until the thread, ours or a child's, sleeps in a system call (/proc/TID/syscall).
void rig_wait_asleep(pid_t tid);

uint64_t rig_now_ms(void);

// Closes both ends by system calls of our own, where they are open.
void rig_close_quietly(struct rig_tcp pair);

#endif
