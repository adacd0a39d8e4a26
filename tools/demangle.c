#include "demangle.h"
#include "errors.h"
#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// Of libstdc++ (Itanium C++ ABI). The result is malloc'd, or NULL.
extern char *__cxa_demangle(const char *name, char *buffer, size_t *bytes, int *status);

enum {
    NAME_MAX_BYTES = 16 << 10 // longer ones take long, and nobody reads them
};

// "::h" and 16 hexadecimal digits: the hash of Rust's legacy names.
static bool is_rust(const char *name, size_t len) {
    enum {
        HASH_LEN = 19
    };
    if (len <= HASH_LEN || strncmp(name + len - HASH_LEN, "::h", 3) != 0)
        return false;
    for (size_t i = len - HASH_LEN + 3; i < len; i++)
        if (!isxdigit((unsigned char)name[i]) || isupper((unsigned char)name[i]))
            return false;
    return true;
}

static const struct {
    const char *escape, *text;
} escapes[] = {{"$LT$", "<"},  {"$GT$", ">"},  {"$RF$", "&"},  {"$LP$", "("},  {"$RP$", ")"},
               {"$C$", ","},   {"$BP$", "*"},  {"$u20$", " "}, {"$u27$", "'"}, {"$u5b$", "["},
               {"$u5d$", "]"}, {"$u7b$", "{"}, {"$u7d$", "}"}, {"$u7e$", "~"}, {"$u3b$", ";"},
               {"$u2b$", "+"}, {"$SP$", "@"},  {"..", "::"}};

// In place: each text is shorter than its escape, or as long.
static void clean_rust(char *name) {
    size_t len = strlen(name);
    name[len - strlen("::h0123456789abcdef")] = '\0';
    char *to = name;
    for (const char *from = name; *from;) {
        size_t i, count = sizeof escapes / sizeof *escapes;
        // A name that would start with `$` is given an underscore in front.
        if (from[0] == '_' && from[1] == '$' && (from == name || from[-1] == ':'))
            from++;
        for (i = 0; i < count; i++)
            if (strncmp(from, escapes[i].escape, strlen(escapes[i].escape)) == 0)
                break;
        if (i == count) {
            *to++ = *from++;
            continue;
        }
        from += strlen(escapes[i].escape);
        to = mempcpy(to, escapes[i].text, strlen(escapes[i].text));
    }
    *to = '\0';
}

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

char *demangle(const char *name) {
    int status;
    char *plain = must_copy(name);
    cut_clone_suffix(plain);
    char *readable = strncmp(plain, "_Z", 2) == 0 && strlen(plain) < NAME_MAX_BYTES
                         ? __cxa_demangle(plain, NULL, NULL, &status)
                         : NULL;
    if (!readable)
        return plain;
    free(plain);
    if (is_rust(readable, strlen(readable)))
        clean_rust(readable);
    return readable;
}
