// Words of our JSON that its writer and its reader share.
#ifndef SOCKLEAK_TOOLS_FORMAT_JSON_H
#define SOCKLEAK_TOOLS_FORMAT_JSON_H

#include "ledger/ledger_format.h"
#include <stddef.h>

#define FORMAT_JSON_SCHEMA "sockleak-report/1"

const char *format_json_hint(int bit);           // of enum report_hints, bit 0 first
const char *format_json_family(uint16_t family); // "inet"; NULL
const char *format_json_first_fin(int first);    // of enum teardown_first: "peer"; NULL

// The counters by name, ended by NULL.
struct format_json_counter {
    const char *key;
    size_t offset; // of a uint64_t in struct ledger_counters, if nothing else is said
};
extern const struct format_json_counter format_json_counters[];
extern const struct format_json_counter format_json_site_counters[]; // in struct report_site

#endif
