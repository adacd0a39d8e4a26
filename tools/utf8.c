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

bool utf8_is_control(const char *text) {
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] < 0x80)
        return c[0] < ' ' || c[0] == 0x7f;
    if (c[0] == 0xc2) // C1: U+0080 to U+009F
        return c[1] < 0xa0;
    // The explicit directional formatting characters (Unicode Standard Annex 9, section 2) and the
    // implicit ones: U+061C, U+200E and U+200F, U+202A to U+202E, U+2066 to U+2069. Between them
    // U+2028 and U+2029, which end a line and a paragraph.
    if (c[0] == 0xd8)
        return c[1] == 0x9c;
    if (c[0] != 0xe2)
        return false;
    return (c[1] == 0x80 && (c[2] == 0x8e || c[2] == 0x8f || (c[2] >= 0xa8 && c[2] <= 0xae))) ||
           (c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9);
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

char *utf8_plain(const char *text) {
    char *copy = utf8_copy(text), *to = copy;
    for (const char *from = copy; *from;) {
        size_t len = utf8_sequence(from); // not 0: the copy is valid
        if (utf8_is_control(from)) {
            *to++ = '?';
        } else {
            memmove(to, from, len);
            to += len;
        }
        from += len;
    }
    *to = '\0';
    return copy;
}
