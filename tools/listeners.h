// Who listens in one network namespace, and in whose accept queue a connection waits.
#ifndef SOCKLEAK_LISTENERS_H
#define SOCKLEAK_LISTENERS_H

#include "diag.h"

struct listeners;

// Of a table that outlives them. Never NULL.
struct listeners *listeners_new(const struct diag_table *table);
void listeners_free(struct listeners *listeners);

bool listeners_have(const struct listeners *listeners, uint16_t port);

// Whose queue `waiting` is in. Of several with SO_REUSEPORT the kernel does not say which: the one
// with the most connections that have not been asked about. NULL where there is none any more.
const struct diag_socket *listeners_claim(struct listeners *listeners,
                                          const struct diag_socket *waiting);

#endif
