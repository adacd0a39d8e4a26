#include "hooks/real.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>

// What a pointer leads to where the C library has no such function: nobody could have linked to it,
// so nobody calls it, but our own hooks might.
static long missing(void) {
    errno = ENOSYS;
    return -1;
}

#define REAL(need, result, name, parameters, arguments)                                            \
    static result resolve_##name parameters {                                                      \
        real_resolve();                                                                            \
        return real_##name arguments;                                                              \
    }                                                                                              \
    result(*real_##name) parameters = resolve_##name;
#define REAL_VARIADIC(need, result, name, parameters, fixed, arguments)                            \
    static result resolve_##name fixed {                                                           \
        real_resolve();                                                                            \
        return real_##name arguments;                                                              \
    }                                                                                              \
    result(*real_##name) parameters = (result(*) parameters)resolve_##name;
#define EXPORT_ONLY(name)
#include "hooks/real.def"
#undef REAL
#undef REAL_VARIADIC
#undef EXPORT_ONLY

static const struct {
    const char *name;
    void **pointer;
} table[] = {
#define REAL(need, result, name, parameters, arguments) {#name, (void **)&real_##name},
#define REAL_VARIADIC(need, result, name, parameters, fixed, arguments)                            \
    {#name, (void **)&real_##name},
#define EXPORT_ONLY(name)
#include "hooks/real.def"
#undef REAL
#undef REAL_VARIADIC
#undef EXPORT_ONLY
};

void real_resolve(void) {
    int saved_errno = errno;
    bool all_found = true;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        void *found = dlsym(RTLD_NEXT, table[i].name);
        *table[i].pointer = found ? found : (void *)missing;
        all_found &= found != NULL;
    }
    if (!all_found)
        dlerror(); // the message is not for the program, which may ask for one of its own
    process_begin();
    errno = saved_errno;
}
