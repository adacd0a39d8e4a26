// SOCKLEAK_OPTIONS, which anybody may have set: parsed inside the watched process.
#include "base/options.h"
#include "fuzz.h"
#include "ledger/ledger_format.h"
#include <stdlib.h>
#include <string.h>

static void claim_text(const char *text, size_t bytes) {
    fuzz_claim(memchr(text, '\0', bytes) != NULL, "a text ends");
}

static void claim_ranges(void) {
    fuzz_claim(options.exitcode <= 255, "exitcode is in its range");
    fuzz_claim(options.exit_grace_ms <= 3600000, "exit_grace_ms is in its range");
    fuzz_claim(options.grace_ms <= 3600000, "grace_ms is in its range");
    fuzz_claim(options.families <= FAMILIES_ALL, "families is one of its choices");
    fuzz_claim(options.help <= 1, "help is in its range");
    fuzz_claim(options.max_sockets <= 1000000, "max_sockets is in its range");
    fuzz_claim(options.show <= SHOW_ALL, "show is one of its choices");
    fuzz_claim(options.signal < 32, "signal is one of its choices");
    fuzz_claim(options.stack_depth >= 1 && options.stack_depth <= LEDGER_STACK_DEPTH_MAX,
               "stack_depth is in its range");
    fuzz_claim(options.verbosity <= 2, "verbosity is in its range");
    claim_text(options.log_path, sizeof options.log_path);
    claim_text(options.ledger_dir, sizeof options.ledger_dir);
    claim_text(options.problems, sizeof options.problems);
}

// They are printed as they are.
static void claim_problems(void) {
    const char *c = options.problems;
    for (; *c; c++)
        fuzz_claim((*c >= ' ' && *c <= '~') || *c == '\n', "problems are printable ASCII");
    fuzz_claim(c == options.problems || c[-1] == '\n', "each problem is a whole line");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct options first;
    char *text = malloc(size + 1); // of this size, so that a read behind it is seen
    memcpy(text, data, size);
    text[size] = '\0';
    options_parse(text);
    claim_ranges();
    claim_problems();
    first = options;
    options_parse(text);
    fuzz_claim(memcmp(&first, &options, sizeof first) == 0, "the same text means the same");
    free(text);
    return 0;
}
