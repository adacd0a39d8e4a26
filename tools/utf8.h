// Foreign text for formats that want UTF-8.
#ifndef SOCKLEAK_TOOLS_UTF8_H
#define SOCKLEAK_TOOLS_UTF8_H

#include <stddef.h>

// Bytes of the valid sequence at `text` (1 to 4); 0 where there is none, as at an overlong form, a
// surrogate, or the end of the string.
size_t utf8_sequence(const char *text);

// A copy in which each byte that belongs to no valid sequence is U+FFFD. Free it.
char *utf8_copy(const char *text);

#endif
