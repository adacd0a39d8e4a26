#include "fuzz.h"
#include "hash.h"
#include "utf8.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct written {
    char *text; // NUL-terminated
    size_t len_bytes;
};

void fuzz_claim(bool holds, const char *claim) {
    if (holds)
        return;
    // libFuzzer has closed our stderr by now (-close_fd_mask): its own copy is what `abort` reports
    // to, and the stack that it prints names the claim's caller.
    fprintf(stderr, "does not hold: %s\n", claim);
    fflush(stderr);
    abort();
}

const char *fuzz_file(const void *bytes, size_t size) {
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    fuzz_claim(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size,
               "the input fits a file in memory");
    return path;
}

struct report_options fuzz_report_options(void) {
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    options.sites = true;
    return options;
}

// --- what a reader of text may be shown ---------------------------------------------------------

static struct written written_as(const struct report *report, enum format format, bool show_all) {
    struct written written = {0};
    struct render_options options = RENDER_OPTIONS_DEFAULT;
    options.show_all = options.verbose = show_all;
    options.explain = options.sites = options.time_wait = show_all;
    options.width = show_all ? 80 : 0;
    options.max_sockets = 3;
    FILE *out = open_memstream(&written.text, &written.len_bytes);
    fuzz_claim(out && report_write(report, format, out, &options) == 0, "a report can be written");
    fclose(out);
    return written;
}

static void claim_printable(const struct written *written) {
    for (size_t i = 0; i < written->len_bytes; i++) {
        char c = written->text[i];
        fuzz_claim((c >= ' ' && c <= '~') || c == '\n', "text is printable ASCII");
    }
}

// jansson escapes all but DEL, which RFC 8259 allows, and which moves nothing.
static void claim_ascii(const struct written *written) {
    for (size_t i = 0; i < written->len_bytes; i++) {
        char c = written->text[i];
        fuzz_claim(c >= ' ' || c == '\n', "JSON is ASCII without control characters");
    }
}

// UTF-8 without what moves a terminal's cursor or turns its text around.
static void claim_harmless(const struct written *written) {
    fuzz_claim(strlen(written->text) == written->len_bytes, "no NUL is written");
    for (const char *c = written->text; *c;) {
        size_t len = utf8_sequence(c);
        fuzz_claim(len > 0, "what is written is UTF-8");
        bool is_control =
            ((unsigned char)*c < ' ' && *c != '\n') || *c == 0x7f ||
            (len == 2 && memcmp(c, "\xc2\x80", 2) >= 0 && memcmp(c, "\xc2\xa0", 2) < 0);
        fuzz_claim(!is_control, "no control character is written");
        c += len;
    }
}

static void claim_lines(const struct written *written, const char *const fronts[]) {
    for (const char *line = written->text; *line;) {
        const char *end = strchr(line, '\n');
        fuzz_claim(end != NULL, "the last line ends");
        bool has_front = false;
        for (int i = 0; fronts[i]; i++)
            has_front |= strncmp(line, fronts[i], strlen(fronts[i])) == 0;
        fuzz_claim(has_front, "each line is a command");
        line = end + 1;
    }
}

// "frame;frame;call COUNT"
static void claim_folded(const struct written *written) {
    for (const char *line = written->text; *line;) {
        const char *end = strchr(line, '\n');
        fuzz_claim(end != NULL, "the last line ends");
        const char *weight = memrchr(line, ' ', (size_t)(end - line));
        fuzz_claim(weight && weight > line && weight + 1 < end, "a stack has a weight");
        fuzz_claim(strspn(weight + 1, "0123456789") == (size_t)(end - weight - 1),
                   "a weight is a number");
        line = end + 1;
    }
}

// --- JSON ---------------------------------------------------------------------------------------

static int64_t leaks_in(const json_t *document) {
    return json_integer_value(json_object_get(json_object_get(document, "summary"), "leaks"));
}

static void claim_json_comes_back(const struct report *report, const struct written *written) {
    json_error_t problem;
    json_t *document = json_loadb(written->text, written->len_bytes, 0, &problem);
    fuzz_claim(document != NULL, "our JSON is JSON");
    fuzz_claim(leaks_in(document) == (int64_t)report->summary.leaks, "JSON tells the leaks");
    json_decref(document);
    struct report *again = report_new();
    struct report_options options = fuzz_report_options();
    fuzz_claim(report_add_path(again, fuzz_file(written->text, written->len_bytes)) == 0,
               "our JSON can be read");
    fuzz_claim(report_finish(again, &options) == 0, "our JSON can be finished");
    fuzz_claim(again->summary.leaks == report->summary.leaks, "as many leaks come back");
    fuzz_claim(again->summary.suppressed == report->summary.suppressed,
               "as many suppressed ones come back");
    struct written once_more = written_as(again, FORMAT_JSON, true);
    free(once_more.text);
    report_free(again);
}

// ------------------------------------------------------------------------------------------------

static void claim_all(const struct report *report, enum format format, bool show_all) {
    struct written written = written_as(report, format, show_all);
    switch (format) {
    case FORMAT_TEXT:
        claim_printable(&written);
        claim_lines(&written, (const char *const[]){"==", NULL});
        break;
    case FORMAT_JSON:
        claim_ascii(&written);
        claim_json_comes_back(report, &written);
        break;
    case FORMAT_SARIF: {
        claim_ascii(&written);
        json_t *document = json_loadb(written.text, written.len_bytes, 0, NULL);
        fuzz_claim(document != NULL, "SARIF is JSON");
        json_decref(document);
        break;
    }
    case FORMAT_JUNIT:
        claim_harmless(&written);
        break;
    case FORMAT_GITHUB:
        claim_harmless(&written);
        claim_lines(&written, (const char *const[]){"::error ", "::warning ", "::notice ", NULL});
        break;
    case FORMAT_FOLDED:
        claim_harmless(&written);
        claim_folded(&written);
        break;
    case FORMAT_PPROF:
        fuzz_claim(written.len_bytes > 2 && memcmp(written.text, "\x1f\x8b", 2) == 0,
                   "a profile is zipped");
        break;
    case FORMAT_COUNT:
        break;
    }
    free(written.text);
}

void fuzz_write(const struct report *report, const uint8_t *data, size_t size) {
    uint64_t hash = hash_bytes(HASH_START, data, size);
    claim_all(report, FORMAT_TEXT, hash & 1);
    claim_all(report, FORMAT_JSON, true);
    claim_all(report,
              (enum format)(FORMAT_JSON + 1 + (hash >> 8) % (FORMAT_COUNT - FORMAT_JSON - 1)),
              true);
}
