// Sums and order of a scan: used by scan_collect.c.
#ifndef SOCKLEAK_TOOLS_SCAN_GROUP_H
#define SOCKLEAK_TOOLS_SCAN_GROUP_H

#include "scan.h"

// In CLOSE_WAIT for less than was asked for.
bool scan_is_younger(const struct scan_filter *filter, const struct diag_socket *socket);

// A socket in TIME_WAIT, of `table`: a destination of its own until scan_group() has run.
void scan_add_time_wait(struct scan_result *result, const struct diag_socket *socket,
                        const struct diag_table *table);

// Once, when all sockets are there: leaves out what is too young, sums each process's sockets,
// groups them by peer, sorts everything.
void scan_group(struct scan_result *result);

#endif
