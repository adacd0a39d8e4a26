// Text without stdio: snprintf takes locks and may malloc. A text_buffer is a fixed piece of memory
// that is always NUL-terminated; what does not fit is cut, and `truncated` says so. Signal-safe.
#ifndef SOCKLEAK_BASE_FORMAT_H
#define SOCKLEAK_BASE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_buffer {
    char *text;
    size_t size_bytes; // of the memory, NUL included; at least 1
    size_t len_bytes;  // without the NUL
    bool truncated;
};

struct text_buffer text_buffer(char *memory, size_t size_bytes);

void text_bytes(struct text_buffer *out, const char *bytes, size_t len_bytes);
void text_string(struct text_buffer *out, const char *string);
void text_char(struct text_buffer *out, char c);
void text_decimal(struct text_buffer *out, uint64_t number);
void text_signed(struct text_buffer *out, int64_t number);
void text_hex(struct text_buffer *out, uint64_t number); // with 0x
// Foreign text (a file name, a command line): bytes outside printable ASCII become `?`, so that it
// cannot carry a terminal escape.
void text_foreign(struct text_buffer *out, const char *string);
// Pads with blanks up to `column` (from 0); one blank where it is behind that already.
void text_pad(struct text_buffer *out, size_t column);

// Parses all of [text, end) as a decimal number up to `max`. Returns false for anything else.
bool text_parse(const char *text, const char *end, uint64_t max, uint64_t *out);

#endif
