// What the fuzz targets share. A target's claim is more than "does not crash": a property that does
// not hold ends the program, as a crash does, and libFuzzer keeps the input.
#ifndef SOCKLEAK_TESTS_FUZZ_H
#define SOCKLEAK_TESTS_FUZZ_H

#include "model.h"
#include <stddef.h>
#include <stdint.h>

// libFuzzer's (compiler-rt, FuzzerInterface.h).
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

// Ends the program with the claim that did not hold.
void fuzz_claim(bool holds, const char *claim);

// The bytes as a file: its path, good until the next call. Nothing is written to a disk.
const char *fuzz_file(const void *bytes, size_t size);

// All that can be asked for.
struct report_options fuzz_report_options(void);

// Renders a finished report and claims what the formats promise: no control character, in a line
// format no line but of its kind, JSON that parses and comes back through our own reader with the
// same leaks. Text and JSON each time; of the others one, chosen by the input: each costs as much
// as reading it.
void fuzz_write(const struct report *report, const uint8_t *data, size_t size);

#endif
