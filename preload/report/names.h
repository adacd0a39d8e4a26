// The words for the numbers in a ledger. Shared with tools/. A number that means
// nothing is "unknown": a ledger is foreign input.
#ifndef SOCKLEAK_REPORT_NAMES_H
#define SOCKLEAK_REPORT_NAMES_H

#include <stdint.h>

const char *name_of_call(uint8_t call);          // enum ledger_call: "accept4"
const char *name_of_state(uint8_t state);        // TCP_*: "CLOSE_WAIT"
const char *name_of_error(uint16_t error);       // "ECONNRESET"
const char *name_of_system_call(int32_t number); // "recvfrom"; NULL for one that has no name here
const char *name_of_provenance(uint8_t provenance); // enum ledger_provenance: "created"

#endif
