#include "utf8.h"
#include "errors.h"
#include <string.h>

// Unicode 15, table 3-7.
size_t utf8_sequence(const char *text) {
    const unsigned char *c = (const unsigned char *)text;
    size_t len = c[0] == 0     ? 0
                 : c[0] < 0x80 ? 1
                 : c[0] < 0xc2 ? 0
                 : c[0] < 0xe0 ? 2
                 : c[0] < 0xf0 ? 3
                 : c[0] < 0xf5 ? 4
                               : 0;
    for (size_t i = 1; i < len; i++)
        if ((c[i] & 0xc0) != 0x80) // also at the end of the string
            return 0;
    unsigned char second = len > 2 ? c[1] : 0x80;
    if ((c[0] == 0xe0 && second < 0xa0) || (c[0] == 0xed && second > 0x9f) ||
        (c[0] == 0xf0 && second < 0x90) || (c[0] == 0xf4 && second > 0x8f))
        return 0;
    return len;
}

char *utf8_copy(const char *text) {
    static const char replacement[] = "\xef\xbf\xbd";
    char *copy = must_allocate(strlen(text) + 1, sizeof replacement - 1), *to = copy;
    while (*text) {
        size_t len = utf8_sequence(text);
        to = len ? mempcpy(to, text, len) : mempcpy(to, replacement, sizeof replacement - 1);
        text += len ? len : 1;
    }
    *to = '\0';
    return copy;
}
