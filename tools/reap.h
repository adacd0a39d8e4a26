// Letting go of sockets that a live process will not close: first aid, until the program is mended.
//
//     struct reap reap = {.pid = pid, .older_ms = 60000, .verdicts = 1u << VERDICT_EOF_IGNORED};
//     reap_open(&reap);              // before the report is gathered
//     reap_list(&reap, report);      // which; nothing is changed
//     reap_destroy(&reap);           // exactly those, each looked at again right before
//     reap_free(&reap);
//
// A socket is named by the kernel's cookie, which it gives to no other. One that was closed, used
// or given to other hands since it was listed is left alone.
#ifndef SOCKLEAK_TOOLS_REAP_H
#define SOCKLEAK_TOOLS_REAP_H

#include "diag.h"
#include "model.h"

enum reap_result {
    REAP_LISTED, // would be destroyed
    REAP_DESTROYED,
    REAP_GONE,   // closed, or in use again, since it was listed
    REAP_LEFT,   // is not to be destroyed, see `why`
    REAP_FAILED, // the kernel did not do it, see `why`
    REAP_RESULTS
};

struct reap_socket {
    const struct report_socket *socket; // the report's
    const struct report_finding *finding;
    struct diag_socket kernel; // when it was listed; inode 0: the kernel has no such connection
    uint64_t age_ms;           // in its state, at least; of a dead one, at most
    enum reap_result result;
    char why[160]; // of all but REAP_LISTED and REAP_DESTROYED
};

struct reap {
    pid_t pid;
    uint64_t older_ms;
    uint32_t verdicts; // mask of 1 << enum verdict: of groups close-wait and dead only
    bool take_shared;  // also what another process has open, too
    // Out:
    uint64_t start_ticks;
    struct diag_table table;
    struct diag_link *link;
    struct reap_socket *sockets; // by their first fd
    uint32_t count, listed;
    uint32_t younger; // wanted, but for their age: not among the sockets
};

// Opens the line to the kernel. Before the process is looked at: an inode that is used again after
// that does not fit its cookie. 0 or -errno, as diag_open_of().
int reap_open(struct reap *reap);

// What of a finished report, of this process as it is now, is to go. 0 or -errno.
int reap_list(struct reap *reap, const struct report *report);

// Destroys what is listed. Stops at the first that this user may not (-EPERM), or that this kernel
// cannot (-EOPNOTSUPP): the others would fare no better. Else 0.
int reap_destroy(struct reap *reap);

void reap_free(struct reap *reap);

const char *reap_result_name(enum reap_result result); // "destroyed"

#endif
