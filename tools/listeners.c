#include "listeners.h"
#include "errors.h"
#include <stdlib.h>
#include <string.h>

struct listener {
    const struct diag_socket *socket;
    uint32_t queued; // connections in its accept queue, without those that were claimed
    uint32_t next;   // on this port: index + 1; 0 none
};

struct listeners {
    struct listener *all;
    uint32_t count;
    uint32_t first[UINT16_MAX + 1]; // by local port: index + 1; 0 none
};

struct listeners *listeners_new(const struct diag_table *table) {
    struct listeners *listeners = must_allocate(1, sizeof *listeners);
    for (size_t i = 0; i < table->count; i++)
        listeners->count += table->sockets[i].state == STATE_LISTEN;
    listeners->all = must_allocate(listeners->count, sizeof *listeners->all);
    uint32_t used = 0;
    for (size_t i = 0; i < table->count; i++) {
        const struct diag_socket *socket = &table->sockets[i];
        if (socket->state != STATE_LISTEN)
            continue;
        uint32_t *first = &listeners->first[socket->local.port];
        listeners->all[used] = (struct listener){socket, socket->recv_queue_bytes, *first};
        *first = ++used;
    }
    return listeners;
}

void listeners_free(struct listeners *listeners) {
    if (listeners)
        free(listeners->all);
    free(listeners);
}

bool listeners_have(const struct listeners *listeners, uint16_t port) {
    return listeners->first[port] != 0;
}

// 2 for its very address, 1 for any address, 0 for another's.
static int nearness(const struct ledger_address *listens, const struct ledger_address *local) {
    static const struct ledger_address any;
    if (listens->family != local->family)
        return 0;
    if (memcmp(listens->ip, local->ip, sizeof listens->ip) == 0)
        return 2;
    return memcmp(listens->ip, any.ip, sizeof any.ip) == 0;
}

const struct diag_socket *listeners_claim(struct listeners *listeners,
                                          const struct diag_socket *waiting) {
    struct listener *best = NULL;
    int best_nearness = 0;
    for (uint32_t i = listeners->first[waiting->local.port]; i; i = listeners->all[i - 1].next) {
        struct listener *listener = &listeners->all[i - 1];
        int near = nearness(&listener->socket->local, &waiting->local);
        if (near == 0 || near < best_nearness)
            continue;
        if (best && near == best_nearness && listener->queued <= best->queued)
            continue;
        best = listener;
        best_nearness = near;
    }
    if (best && best->queued)
        best->queued--;
    return best ? best->socket : NULL;
}
