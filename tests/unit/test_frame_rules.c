// track/frame_rules: what the assembler wrote as call frame information is read as DWARF 5, 6.4.2
// defines it, and what is not of the plain kind is refused. Each function here is `nop; nop`, and
// the rule is asked for behind the first.
#include "track/frame_rules.h"
#include "unit.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__) && defined(DLFO_STRUCT_HAS_EH_DBASE)

#define RBP -16 // the slot that `push %rbp` at a function's begin fills
#define NO_SLOT FRAME_RBP_KEPT

// name, directives between .cfi_startproc and the first nop, the rule: kind, CFA, rbp's slot
#define PLAIN                                                                                      \
    RULE(a_call_alone, "", BY_RSP, 8, NO_SLOT)                                                     \
    RULE(push_rbp, ".cfi_def_cfa_offset 16\n.cfi_offset rbp, -16", BY_RSP, 16, RBP)                \
    RULE(frame_pointer, ".cfi_def_cfa_offset 16\n.cfi_offset rbp, -16\n.cfi_def_cfa_register rbp", \
         BY_RBP, 16, RBP)                                                                          \
    RULE(def_cfa, ".cfi_def_cfa rbp, 32", BY_RBP, 32, NO_SLOT)                                     \
    RULE(remembered_state,                                                                         \
         ".cfi_remember_state\n.cfi_def_cfa_offset 64\n.cfi_offset rbp, -16\n.cfi_restore_state",  \
         BY_RSP, 8, NO_SLOT)                                                                       \
    RULE(states_remembered_in_states,                                                              \
         ".cfi_def_cfa_offset 24\n.cfi_remember_state\n.cfi_def_cfa_offset 32\n"                   \
         ".cfi_remember_state\n.cfi_def_cfa_offset 40\n.cfi_restore_state\n.cfi_restore_state",    \
         BY_RSP, 24, NO_SLOT)                                                                      \
    RULE(restore, ".cfi_offset rbp, -16\n.cfi_restore rbp", BY_RSP, 8, NO_SLOT)                    \
    RULE(restore_extended, ".cfi_offset rbp, -16\n.cfi_escape 0x06, 6", BY_RSP, 8, NO_SLOT)        \
    RULE(offset_extended, ".cfi_escape 0x05, 6, 2", BY_RSP, 8, RBP)                                \
    RULE(same_value, ".cfi_offset rbp, -16\n.cfi_same_value rbp", BY_RSP, 8, NO_SLOT)              \
    RULE(another_register_saved, ".cfi_offset rbx, -24\n.cfi_restore rbx", BY_RSP, 8, NO_SLOT)     \
    RULE(args_size, ".cfi_escape 0x2e, 16", BY_RSP, 8, NO_SLOT)                                    \
    RULE(bytes_of_a_uleb128, ".cfi_def_cfa_offset 5000", BY_RSP, 5000, NO_SLOT)                    \
    RULE(location_in_1_byte, ".skip 100, 0x90\n.cfi_def_cfa_offset 16", BY_RSP, 16, NO_SLOT)       \
    RULE(location_in_2_bytes, ".skip 300, 0x90\n.cfi_def_cfa_offset 16", BY_RSP, 16, NO_SLOT)      \
    RULE(location_in_4_bytes, ".skip 70000, 0x90\n.cfi_def_cfa_offset 16", BY_RSP, 16, NO_SLOT)    \
    RULE(cleanups, ".cfi_personality 0x1b, handler\n.cfi_lsda 0x1b, handler", BY_RSP, 8, NO_SLOT)  \
    RULE(outermost, ".cfi_undefined rip", OUTERMOST, 0, NO_SLOT)

#define OTHER                                                                                      \
    RULE(cfa_by_expression, ".cfi_escape 0x0f, 1, 0x9c", REFUSED, 0, 0)                            \
    RULE(rbp_by_expression, ".cfi_escape 0x10, 6, 1, 0x9c", REFUSED, 0, 0)                         \
    RULE(rbp_by_value_of_expression, ".cfi_escape 0x16, 6, 1, 0x9c", REFUSED, 0, 0)                \
    RULE(rbp_in_a_register, ".cfi_register rbp, rax", REFUSED, 0, 0)                               \
    RULE(rbp_undefined, ".cfi_undefined rbp", REFUSED, 0, 0)                                       \
    RULE(cfa_from_another_register, ".cfi_def_cfa r10, 0", REFUSED, 0, 0)                          \
    RULE(return_address_elsewhere, ".cfi_offset rip, -16", REFUSED, 0, 0)                          \
    RULE(return_address_unchanged, ".cfi_same_value rip", REFUSED, 0, 0)                           \
    RULE(signal_frame, ".cfi_signal_frame", REFUSED, 0, 0)                                         \
    RULE(another_return_column, ".cfi_return_column 15", REFUSED, 0, 0)                            \
    RULE(cfa_too_far, ".cfi_def_cfa_offset 0x7ffffff0", REFUSED, 0, 0)                             \
    RULE(slot_too_far, ".cfi_offset rbp, -40000", REFUSED, 0, 0)

#define RULE(name, directives, kind, cfa, slot)                                                    \
    __asm__(".pushsection .text\n"                                                                 \
            ".cfi_startproc\n" directives "\nnop\n"                                                \
            "at_" #name ":\n"                                                                      \
            "nop\n.cfi_endproc\n.popsection");                                                     \
    extern const char at_##name[];
extern const char no_information[];
__asm__(".pushsection .text\nhandler: nop\nno_information: nop\nnop\n.popsection");
PLAIN OTHER
#undef RULE

    static const struct {
    const char *name, *at;
    struct frame_rule expected;
} rules[] = {
#define RULE(name, directives, kind, cfa, slot) {#name, at_##name, {cfa, slot, FRAME_##kind}},
    PLAIN OTHER
#undef RULE
};

static void the_rule_is_the_assemblers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        struct frame_rule got = frame_rule_at((uintptr_t)rules[i].at);
        const struct frame_rule *expected = &rules[i].expected;
        bool same_places =
            got.cfa_offset == expected->cfa_offset && got.rbp_offset == expected->rbp_offset;
        if (got.kind != expected->kind || (got.kind != FRAME_REFUSED && !same_places))
            fail_msg("%s: kind %u, CFA %d, rbp %d", rules[i].name, got.kind, got.cfa_offset,
                     got.rbp_offset);
    }
}

static void code_without_information_is_refused(void **state) {
    (void)state;
    static char data[16];
    assert_int_equal(frame_rule_at((uintptr_t)no_information + 1).kind, FRAME_REFUSED);
    assert_int_equal(frame_rule_at((uintptr_t)&state).kind, FRAME_REFUSED);
    assert_int_equal(frame_rule_at((uintptr_t)data).kind, FRAME_REFUSED);
    assert_int_equal(frame_rule_at(0).kind, FRAME_REFUSED);
}

// --- tables that no linker would make -----------------------------------------------------------

enum {
    IMAGE_BYTES = 256,
    CIE_AT = 32,
    FDE_AT = 64,
    INSTRUCTIONS_AT = FDE_AT + 17,
    CODE_AT = 192,
    CODE_BYTES = 16,
    PAGE_BYTES = 4096
};

// Each part as the Linux Standard Base has it ("DWARF Extensions", .eh_frame and .eh_frame_hdr).
static const uint8_t header[] = {1, 0x1b, 0x03, 0x3b,    0, 0, 0, 0,      /* one entry: */ 1,
                                 0, 0,    0,    CODE_AT, 0, 0, 0, FDE_AT, 0,
                                 0, 0};
static const uint8_t cie[] = {20,  0,   0,    0, 0,    0,  0, 0,    /* version */ 1,
                              'z', 'R', 0,    1, 0x78, 16, 1, 0x1b, 0x0c,
                              7,   8,   0x90, 1, 0,    0};

// The instructions lie in the second page, what leads to them in the first.
static uint8_t pages[2 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static uint8_t *const image = pages + PAGE_BYTES - INSTRUCTIONS_AT;
static bool is_by_hand, has_gaps;

// In the place of libc's, for this program and what it is linked from.
int _dl_find_object(void *address, struct dl_find_object *out) {
    if (!is_by_hand) {
        int (*real)(void *, struct dl_find_object *);
        *(void **)&real = dlsym(RTLD_NEXT, "_dl_find_object");
        return real(address, out);
    }
    *out = (struct dl_find_object){.dlfo_eh_frame = image, .dlfo_map_end = image + IMAGE_BYTES};
    if (has_gaps) { // between the segments: then libc tells of the one that the code is in
        out->dlfo_map_start = image + CODE_AT;
        out->dlfo_map_end = image + CODE_AT + CODE_BYTES;
    }
    return 0;
}

static void make_image(const uint8_t *instructions, size_t count) {
    memset(image, 0, IMAGE_BYTES);
    memcpy(image, header, sizeof header);
    memcpy(image + CIE_AT, cie, sizeof cie);
    uint32_t fde[] = {(uint32_t)(13 + count), FDE_AT + 4 - CIE_AT, CODE_AT - (FDE_AT + 8),
                      CODE_BYTES};
    memcpy(image + FDE_AT, fde, sizeof fde);
    if (count)
        memcpy(image + INSTRUCTIONS_AT, instructions, count);
}

static struct frame_rule rule_by_hand(void) {
    is_by_hand = true;
    struct frame_rule rule = frame_rule_at((uintptr_t)image + CODE_AT + 1);
    is_by_hand = false;
    return rule;
}

static void instructions_that_are_broken_are_refused(void **state) {
    (void)state;
    static const struct {
        size_t count;
        uint8_t bytes[16];
    } broken[] = {
        {1, {0x3f}},                               // nobody's
        {1, {0x0b}},                               // nothing was remembered
        {9, {10, 10, 10, 10, 10, 10, 10, 10, 10}}, // too much was
        {1, {0x0e}},                               // no operand
        {3, {0x0e, 0x80, 0x80}},                   // a number that does not end
        {12, {0x0e, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 1}}, // or too late
        {1, {0x02}},
        {2, {0x03, 0}},
        {4, {0x04, 0, 0, 0}},
        {3, {0x0f, 2, 0x9c}}, // an expression behind the end
        {4, {0x10, 6, 2, 0x9c}},
    };
    make_image(NULL, 0);
    struct frame_rule good = rule_by_hand();
    assert_int_equal(good.kind, FRAME_BY_RSP);
    assert_int_equal(good.cfa_offset, 8);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        make_image(broken[i].bytes, broken[i].count);
        if (rule_by_hand().kind != FRAME_REFUSED)
            fail_msg("broken instructions %zu", i);
    }
}

static void tables_that_are_broken_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *what;
        size_t at;
        uint8_t byte;
    } changes[] = {
        {"version of the header", 0, 2},
        {"encoding of .eh_frame's address", 1, 0},
        {"encoding of the count", 2, 0x0b},
        {"encoding of the table", 3, 0x1b},
        {"count", 8, 0},
        {"all functions lie behind", 13, 1},
        {"length of the FDE: none", FDE_AT, 0},
        {"length of the FDE: behind the end", FDE_AT + 1, 1},
        {"an FDE that is a CIE", FDE_AT + 4, 0},
        {"function ends before", FDE_AT + 12, 0},
        {"augmentation of the FDE behind its end", FDE_AT + 16, 1},
        {"length of the CIE: behind the end", CIE_AT + 1, 1},
        {"a CIE that is an FDE", CIE_AT + 4, 1},
        {"version of the CIE", CIE_AT + 8, 4},
        {"augmentation without a length", CIE_AT + 9, 'e'},
        {"augmentation unknown", CIE_AT + 10, 'Q'},
        {"signal frame", CIE_AT + 10, 'S'},
        {"personality without an encoding that is known", CIE_AT + 10, 'P'},
        {"LSDA alone", CIE_AT + 10, 'L'},
        {"return column", CIE_AT + 14, 15},
        {"augmentation behind the CIE's end", CIE_AT + 15, 0x7f},
        {"addresses are absolute", CIE_AT + 16, 0},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        make_image(NULL, 0);
        image[changes[i].at] = changes[i].byte;
        if (rule_by_hand().kind != FRAME_REFUSED)
            fail_msg("%s", changes[i].what);
    }
}

static void entries_that_end_in_a_hole_are_refused(void **state) {
    (void)state;
    static const uint8_t nops[8];
    make_image(nops, sizeof nops);
    assert_int_equal(mprotect(pages + PAGE_BYTES, PAGE_BYTES, PROT_NONE), 0);
    assert_int_equal(rule_by_hand().kind, FRAME_REFUSED);
    assert_int_equal(mprotect(pages + PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
    assert_int_equal(rule_by_hand().kind, FRAME_BY_RSP);
}

static void tables_may_lie_in_another_segment_than_the_code(void **state) {
    (void)state;
    has_gaps = true;
    make_image(NULL, 0);
    struct frame_rule good = rule_by_hand();
    instructions_that_are_broken_are_refused(state);
    entries_that_end_in_a_hole_are_refused(state);
    has_gaps = false;
    assert_int_equal(good.kind, FRAME_BY_RSP);
    assert_int_equal(good.cfa_offset, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rule_is_the_assemblers),
        cmocka_unit_test(code_without_information_is_refused),
        cmocka_unit_test(instructions_that_are_broken_are_refused),
        cmocka_unit_test(tables_that_are_broken_are_refused),
        cmocka_unit_test(entries_that_end_in_a_hole_are_refused),
        cmocka_unit_test(tables_may_lie_in_another_segment_than_the_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    puts("no rules are read here: another processor, or a C library before 2.35");
    return 77;
}

#endif
