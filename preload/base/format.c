#include "base/format.h"
#include <string.h>

struct text_buffer text_buffer(char *memory, size_t size_bytes) {
    memory[0] = '\0';
    return (struct text_buffer){.text = memory, .size_bytes = size_bytes};
}

void text_bytes(struct text_buffer *out, const char *bytes, size_t len_bytes) {
    size_t room = out->size_bytes - 1 - out->len_bytes;
    if (len_bytes > room) {
        len_bytes = room;
        out->truncated = true;
    }
    memcpy(out->text + out->len_bytes, bytes, len_bytes);
    out->len_bytes += len_bytes;
    out->text[out->len_bytes] = '\0';
}

void text_string(struct text_buffer *out, const char *string) {
    text_bytes(out, string, strlen(string));
}

void text_char(struct text_buffer *out, char c) {
    text_bytes(out, &c, 1);
}

static void text_digits(struct text_buffer *out, uint64_t number, unsigned base) {
    char digits[20]; // of UINT64_MAX in decimal
    size_t first = sizeof digits;
    do {
        digits[--first] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    text_bytes(out, digits + first, sizeof digits - first);
}

void text_decimal(struct text_buffer *out, uint64_t number) {
    text_digits(out, number, 10);
}

void text_signed(struct text_buffer *out, int64_t number) {
    if (number < 0)
        text_char(out, '-');
    text_digits(out, number < 0 ? 0 - (uint64_t)number : (uint64_t)number, 10);
}

void text_hex(struct text_buffer *out, uint64_t number) {
    text_string(out, "0x");
    text_digits(out, number, 16);
}

void text_foreign(struct text_buffer *out, const char *string) {
    for (; *string; string++)
        text_char(out, *string >= ' ' && *string <= '~' ? *string : '?');
}

void text_pad(struct text_buffer *out, size_t column) {
    do
        text_char(out, ' ');
    while (out->len_bytes < column && !out->truncated);
}

bool text_parse(const char *text, const char *end, uint64_t max, uint64_t *out) {
    uint64_t number = 0;
    if (text == end)
        return false;
    for (; text < end; text++) {
        unsigned digit = (unsigned)(*text - '0');
        if (digit > 9 || number > (UINT64_MAX - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    *out = number;
    return number <= max;
}
