// A ledger is foreign input: whatever its bytes are, the reader and all formats come to an end
// within their memory. Each test passes by not crashing; built with SANITIZE=address it means more.
#include "ledger_image.h"
#include "model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h> // wants the others before it

static struct ledger_image good, bad;
static FILE *null;

// What is said about each of them is not looked at here.
static int hide_stderr(void) {
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    dup2(fileno(null), STDERR_FILENO);
    return kept;
}

static void show_stderr(int kept) {
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
}

static void finish_and_write(struct report *report) {
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    struct render_options render = RENDER_OPTIONS_DEFAULT;
    render.show_all = true;
    report_finish(report, &options);
    for (int format = 0; format < FORMAT_COUNT; format++)
        report_write(report, (enum format)format, null, &render);
}

static void read_and_write(const void *bytes, size_t len) {
    int kept = hide_stderr();
    struct report *report = report_new();
    if (report_add_ledger_memory(report, bytes, len, "hostile") == 0)
        finish_and_write(report);
    report_free(report);
    show_stderr(kept);
}

static void read_and_write_path(const char *path) {
    int kept = hide_stderr();
    struct report *report = report_new();
    if (report_add_path(report, path) == 0)
        finish_and_write(report);
    report_free(report);
    show_stderr(kept);
}

static int set_up(void **state) {
    (void)state;
    null = fopen("/dev/null", "w");
    image_init(&good, 100);
    uint32_t birth = image_stack(&good, 0x1000, 4), eof = image_stack(&good, 0x2000, 3);
    for (int i = 0; i < 4; i++)
        image_ignore_eof(image_socket(&good, birth), eof);
    image_socket(&good, eof)->error = 104;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fclose(null);
    return 0;
}

// The bytes that mean something: the buckets are not read.
static bool is_used(size_t offset) {
    for (int id = 0; id < LEDGER_REGIONS; id++) {
        const struct ledger_region *region = &good.header.regions[id];
        static const size_t element[LEDGER_REGIONS] = {
            4, sizeof(struct ledger_record), 0, sizeof(struct ledger_stack),
            8, sizeof(struct ledger_module), 1, sizeof(struct ledger_destination)};
        if (offset >= region->offset && offset < region->offset + region->used * element[id])
            return true;
    }
    return offset < offsetof(struct ledger_header, exe);
}

static void any_byte_may_be_wrong(void **state) {
    (void)state;
    static const unsigned char flips[] = {0x01, 0x80, 0xff};
    for (size_t i = 0; i < sizeof good; i++)
        for (size_t k = 0; is_used(i) && k < sizeof flips; k++) {
            bad = good;
            ((unsigned char *)&bad)[i] ^= flips[k];
            read_and_write(&bad, sizeof bad);
        }
}

static void any_word_may_be_huge(void **state) {
    (void)state;
    static const uint64_t values[] = {0, UINT64_MAX, UINT32_MAX, 1ull << 63, 1 << 20};
    for (size_t i = 0; i + 8 <= sizeof good; i += 8)
        for (size_t k = 0; is_used(i) && k < sizeof values / sizeof *values; k++) {
            bad = good;
            memcpy((char *)&bad + i, &values[k], sizeof values[k]);
            read_and_write(&bad, sizeof bad);
        }
}

static void any_end_may_be_missing(void **state) {
    (void)state;
    for (size_t len = 0; len <= sizeof good; len += len < 4096 ? 97 : 61) {
        // In memory of just this size, so that a read behind it is seen.
        char *cut = malloc(len ? len : 1);
        memcpy(cut, &good, len);
        read_and_write(cut, len);
        free(cut);
    }
}

static void random_bytes_in_a_good_header_are_survived(void **state) {
    (void)state;
    srand(7);
    for (int round = 0; round < 200; round++) {
        bad = good;
        for (size_t i = sizeof bad.header; i < sizeof bad; i++)
            if (is_used(i))
                ((unsigned char *)&bad)[i] = (unsigned char)rand();
        read_and_write(&bad, sizeof bad);
    }
}

// Our own JSON comes back through a file, as foreign as a ledger.
static void any_byte_of_json_may_be_wrong(void **state) {
    (void)state;
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    struct render_options render = RENDER_OPTIONS_DEFAULT;
    char *text = NULL, path[64];
    size_t len = 0;
    FILE *memory = open_memstream(&text, &len);
    render.show_all = true;
    report_add_ledger_memory(report, &good, sizeof good, "good");
    report_finish(report, &options);
    assert_int_equal(report_write(report, FORMAT_JSON, memory, &render), 0);
    fclose(memory);
    report_free(report);
    int fd = memfd_create("report.json", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    srand(11);
    for (int round = 0; round < 2000; round++) {
        static const char bytes[] = "0-9e{}[],:\"x\\";
        size_t at = (size_t)rand() % len;
        char kept = text[at];
        text[at] = bytes[(size_t)rand() % (sizeof bytes - 1)];
        assert_int_equal(pwrite(fd, text, len, 0), len);
        read_and_write_path(path);
        text[at] = kept;
    }
    close(fd);
    free(text);
}

static double cpu_seconds(const struct rusage *usage) {
    return (double)usage->ru_utime.tv_sec + (double)usage->ru_utime.tv_usec / 1e6;
}

// Modules whose names overlap, stacks that share frames, one inode for all sockets: small files
// that would unfold to much, or take each with each.
static void overlap_does_not_multiply(void **state) {
    (void)state;
    enum {
        MODULES = 4095,
        STACKS = 60000,
        NAMES = 1 << 20
    };
    size_t modules = MODULES * sizeof(struct ledger_module);
    size_t stacks = STACKS * sizeof(struct ledger_stack);
    size_t records = STACKS * sizeof(struct ledger_record), fds = STACKS * 4u;
    size_t frames = LEDGER_STACK_DEPTH_MAX * 8 + 8;
    size_t total = LEDGER_HEADER_BYTES + modules + stacks + records + fds + frames + NAMES;
    char *file = calloc(1, total);
    struct ledger_header *header = (struct ledger_header *)file;
    *header = good.header;
    const size_t sizes[LEDGER_REGIONS] = {fds, records, 0, stacks, frames, modules, NAMES};
    const uint64_t used[LEDGER_REGIONS] = {STACKS,  STACKS, 0, STACKS, LEDGER_STACK_DEPTH_MAX + 1,
                                           MODULES, NAMES};
    size_t at = LEDGER_HEADER_BYTES;
    for (int id = 0; id < LEDGER_REGIONS; id++) {
        header->regions[id] = (struct ledger_region){.offset = at,
                                                     .reserved_bytes = sizes[id],
                                                     .committed_bytes = sizes[id],
                                                     .used = used[id]};
        at += sizes[id];
    }
    uint32_t *fd = (uint32_t *)(file + header->regions[LEDGER_FDS].offset);
    struct ledger_record *record = (void *)(file + header->regions[LEDGER_RECORDS].offset);
    struct ledger_stack *stack = (void *)(file + header->regions[LEDGER_STACKS].offset);
    uint64_t *frame = (uint64_t *)(file + header->regions[LEDGER_FRAMES].offset);
    struct ledger_module *module = (void *)(file + header->regions[LEDGER_MODULES].offset);
    memset(file + header->regions[LEDGER_STRINGS].offset, 'x', NAMES);
    for (uint32_t i = 1; i < STACKS; i++) {
        fd[i] = i;
        record[i] = good.records[1];
        record[i].birth_stack = record[i].eof_stack = i;
        stack[i] = (struct ledger_stack){.first_frame = 1,
                                         .depth = (uint16_t)(1 + i % LEDGER_STACK_DEPTH_MAX)};
    }
    for (uint32_t i = 1; i <= LEDGER_STACK_DEPTH_MAX; i++)
        frame[i] = LEDGER_FRAME(i, i);
    for (uint32_t i = 1; i < MODULES; i++)
        module[i].path = i;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    struct report *report = report_new();
    struct report_options options = REPORT_OPTIONS_DEFAULT;
    assert_int_equal(report_add_ledger_memory(report, file, total, "overlapping"), 0);
    assert_int_equal(report_finish(report, &options), 0);
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 512 * 1024); // KB
    assert_true(cpu_seconds(&after) - cpu_seconds(&before) < 5);
    report_free(report);
    free(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_byte_may_be_wrong),
        cmocka_unit_test(any_word_may_be_huge),
        cmocka_unit_test(any_end_may_be_missing),
        cmocka_unit_test(random_bytes_in_a_good_header_are_survived),
        cmocka_unit_test(any_byte_of_json_may_be_wrong),
        cmocka_unit_test(overlap_does_not_multiply),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
