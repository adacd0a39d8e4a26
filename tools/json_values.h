// Values of our JSON, from whatever a document has: anything may be missing, or of another type.
#ifndef SOCKLEAK_TOOLS_JSON_VALUES_H
#define SOCKLEAK_TOOLS_JSON_VALUES_H

#include "model.h"
#include <jansson.h>

const char *value_text(const json_t *object, const char *key); // NULL for all but text

// A number from 0 to max; `fallback` for anything else.
int64_t value_number(const json_t *object, const char *key, int64_t max, int64_t fallback);

uint64_t value_hex(const json_t *object, const char *key); // of "0x1a"; 0 for anything else

// Names to numbers. NULL and what is not known here: unknown, found, EIO.
uint8_t value_call(const char *name);
uint8_t value_state(const char *name);
uint8_t value_provenance(const char *name);
uint16_t value_error(const char *name);

// "127.0.0.1:80", "[::1%2]:80"
struct ledger_address value_address(const char *text);

// The stack of {"call": ..., "stack": [...]}; NULL where it has no frames.
struct report_stack *value_stack(struct report *report, const json_t *call);

#endif
