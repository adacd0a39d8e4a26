// Foreign text for formats that want UTF-8.
#ifndef SOCKLEAK_TOOLS_UTF8_H
#define SOCKLEAK_TOOLS_UTF8_H

#include <stdbool.h>
#include <stddef.h>

// Bytes of the valid sequence at `text` (1 to 4); 0 where there is none, as at an overlong form, a
// surrogate, or the end of the string.
size_t utf8_sequence(const char *text);

// Whether the valid sequence at `text` is more than a character: a control of C0 or C1 (a
// terminal's escapes), the end of a line or paragraph, or one that turns the direction of the text
// around it.
bool utf8_is_control(const char *text);

// A copy in which each byte that belongs to no valid sequence is U+FFFD. Free it.
char *utf8_copy(const char *text);

// The same for people and line-based formats: each control is `?`, newlines, too.
char *utf8_plain(const char *text);

#endif
