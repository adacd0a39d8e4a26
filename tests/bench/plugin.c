// The soak's plugin (see workload.c): 32 call sites, which are new each time that a copy of this
// file is loaded.
typedef void action_function(void);

enum {
    BITS = 5
};

static int by_zero(int site, int bits, action_function *action);

__attribute__((noinline)) static int by_one(int site, int bits, action_function *action) {
    volatile int depth = 1; // volatile: else the calls are jumps
    if (bits == 0)
        action();
    else
        depth +=
            site & 1 ? by_one(site >> 1, bits - 1, action) : by_zero(site >> 1, bits - 1, action);
    return depth;
}

__attribute__((noinline)) static int by_zero(int site, int bits, action_function *action) {
    volatile int depth = 2;
    if (bits == 0)
        action();
    else
        depth +=
            site & 1 ? by_one(site >> 1, bits - 1, action) : by_zero(site >> 1, bits - 1, action);
    return depth;
}

void plugin_call(int site, action_function *action);

void plugin_call(int site, action_function *action) {
    by_zero(site, BITS, action);
}
