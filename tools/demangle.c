#include "demangle.h"
#include "errors.h"
#include <ctype.h>
#include <libiberty/demangle.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 16 << 10, // longer ones take long, and nobody reads them
    READABLE_MAX_BYTES = 64 << 10,
    STEPS_MAX = 100000000 // less than a second
};

struct readable {
    char *text; // NUL-terminated; NULL while there is none
    size_t len_bytes;
    jmp_buf too_long;
};

// What compilers append to the name of a function that they split or specialised.
static void cut_clone_suffix(char *name) {
    static const char *const suffixes[] = {".isra.", ".part.",     ".constprop.",
                                           ".cold",  ".lto_priv.", ".llvm."};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char *suffix = strstr(name, suffixes[i]);
        if (suffix && suffix != name)
            *suffix = '\0';
    }
}

// A name may refer back to its parts, twice in each step: 300 bytes of it stand for gigabytes. The
// printers of libiberty have no other way out, and hold no memory when they call this but, in a
// Rust name, that of one identifier in punycode.
static void append(const char *part, size_t len_bytes, void *context) {
    struct readable *readable = context;
    if (len_bytes == 0) // then `part` may be NULL
        return;
    if (len_bytes > READABLE_MAX_BYTES - readable->len_bytes)
        longjmp(readable->too_long, 1);
    memcpy(readable->text + readable->len_bytes, part, len_bytes);
    readable->len_bytes += len_bytes;
    readable->text[readable->len_bytes] = '\0';
}

// Of Rust's v0 form (RFC 2603) libiberty also walks through parts that it does not print. The
// binder of a function's or a trait object's type (FG or DG, a number in base 62, which _ ends)
// then still takes as many steps as it says. (Back references are not followed there.)
static bool takes_long(const char *mangled) {
    uint64_t steps = 0;
    for (const char *c = strchr(mangled, 'G'); c && mangled[1] == 'R'; c = strchr(c + 1, 'G')) {
        uint64_t number = 1;
        const char *end = c + 1;
        for (; isalnum((unsigned char)*end); end++)
            number *= number < STEPS_MAX ? 62 : 1;
        if (*end == '_' && (c[-1] == 'F' || c[-1] == 'D'))
            steps += number;
    }
    return steps >= STEPS_MAX;
}

// NULL where it is no mangled name, or stands for too much.
static char *readable_of(const char *mangled) {
    enum {
        OPTIONS = DMGL_PARAMS | DMGL_ANSI
    };
    struct readable readable = {.text = must_allocate(1, READABLE_MAX_BYTES + 1)};
    volatile bool is_done = false;
    if (setjmp(readable.too_long) == 0) {
        is_done = rust_demangle_callback(mangled, OPTIONS, append, &readable);
        if (!is_done) {
            readable.len_bytes = 0; // of what looked like one at first
            is_done = cplus_demangle_v3_callback(mangled, OPTIONS, append, &readable);
        }
    }
    char *text = is_done ? must_copy(readable.text) : NULL;
    free(readable.text);
    return text;
}

char *demangle(const char *name) {
    char *plain = must_copy(name);
    cut_clone_suffix(plain);
    // C++ by the Itanium ABI, and both forms of Rust, without the hash that tells crates apart.
    bool is_mangled = plain[0] == '_' && (plain[1] == 'Z' || plain[1] == 'R');
    bool is_bounded = strlen(plain) < NAME_MAX_BYTES && is_mangled && !takes_long(plain);
    char *readable = is_bounded ? readable_of(plain) : NULL;
    if (!readable)
        return plain;
    free(plain);
    return readable;
}
