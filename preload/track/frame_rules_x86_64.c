#include "base/readable.h"
#include "track/frame_rules.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

// glibc 2.35. Weak, so that the library also loads with an older one.
#ifdef DLFO_STRUCT_HAS_EH_DBASE
extern int _dl_find_object(void *address, struct dl_find_object *result) __attribute__((weak));
#endif

// DWARF's numbers of registers (System V ABI, AMD64, figure 3.36).
enum {
    REGISTER_RBP = 6,
    REGISTER_RSP = 7,
    REGISTER_RA = 16
};
// Pointer encodings (LSB, "DWARF Exception Header Encoding"): the ones that gcc, clang and the
// linkers emit for x86-64. Others are refused.
enum {
    UDATA4 = 0x03,
    SDATA4 = 0x0b,
    PCREL_SDATA4 = 0x1b,
    DATAREL_SDATA4 = 0x3b,
    INDIRECT = 0x80
};
enum {
    REMEMBERED_MAX = 8,
    ENTRY_MAX_BYTES = 1 << 20,
    PAGE_BYTES = 4096,
    PAGES_MAX = 16 // enough for a table of 2^12 pages, and two entries
};

// --- reading ------------------------------------------------------------------------------------

struct bytes {
    const uint8_t *at, *end;
    bool bad; // read behind the end, or something that is not understood
};

static uint8_t take_u8(struct bytes *in) {
    if (in->at >= in->end) {
        in->bad = true;
        return 0;
    }
    return *in->at++;
}

static uint64_t take_bytes(struct bytes *in, size_t count) {
    uint64_t value = 0;
    if ((size_t)(in->end - in->at) < count) {
        in->bad = true;
        in->at = in->end;
        return 0;
    }
    memcpy(&value, in->at, count); // little-endian
    in->at += count;
    return value;
}

static void skip(struct bytes *in, uint64_t count) {
    if ((uint64_t)(in->end - in->at) < count) {
        in->bad = true;
        in->at = in->end;
    } else {
        in->at += count;
    }
}

static uint64_t take_uleb(struct bytes *in) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = take_u8(in);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    in->bad = true;
    return 0;
}

static int64_t take_sleb(struct bytes *in) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64;) {
        uint8_t byte = take_u8(in);
        value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
        if (byte & 0x80)
            continue;
        if ((byte & 0x40) && shift < 64)
            value |= ~0ull << shift;
        return (int64_t)value;
    }
    in->bad = true;
    return 0;
}

// --- the description of a function --------------------------------------------------------------

struct description {
    struct bytes common, own; // instructions of the CIE, then of the FDE
    uintptr_t start, end;     // of the function
    uint64_t code_align;
    int64_t data_align;
};

// The mapping of a file that was loaded. Its tables are the linker's work, and nobody has looked at
// them before: those of a packer, or of a damaged file, may lead anywhere, also into a hole of it.
// So the kernel is asked before they are read, once a page while one frame is learned.
struct mapping {
    const uint8_t *start, *end;
    uintptr_t pages[PAGES_MAX]; // that can be read, the last in turn
    unsigned asked;
};

static bool is_page_readable(struct mapping *mapping, uintptr_t page) {
    for (unsigned i = 0; i < mapping->asked && i < PAGES_MAX; i++)
        if (mapping->pages[i] == page)
            return true;
    if (!readable((const void *)page, 1)) // NOLINT(performance-no-int-to-ptr)
        return false;
    mapping->pages[mapping->asked++ % PAGES_MAX] = page;
    return true;
}

static bool is_within(struct mapping *mapping, const uint8_t *at, size_t bytes) {
    if (at < mapping->start || at >= mapping->end || (size_t)(mapping->end - at) < bytes)
        return false;
    uintptr_t end = (uintptr_t)at + bytes;
    for (uintptr_t page = (uintptr_t)at & ~(uintptr_t)(PAGE_BYTES - 1); page < end;
         page += PAGE_BYTES)
        if (!is_page_readable(mapping, page))
            return false;
    return true;
}

// A length-prefixed entry.
static struct bytes entry_at(const uint8_t *at, struct mapping *mapping) {
    struct bytes in = {at, at, true};
    uint32_t len;
    if (!is_within(mapping, at, sizeof len))
        return in;
    memcpy(&len, at, sizeof len);
    if (len == 0 || len > ENTRY_MAX_BYTES || !is_within(mapping, at, sizeof len + len))
        return in;
    return (struct bytes){at + sizeof len, at + sizeof len + len, false};
}

static void skip_personality(struct bytes *in) {
    uint8_t format = take_u8(in) & 0x0f;
    if (format != UDATA4 && format != SDATA4)
        in->bad = true;
    skip(in, 4);
}

static bool read_cie(const uint8_t *at, struct mapping *mapping, struct description *out) {
    struct bytes in = entry_at(at, mapping);
    if (in.bad || take_bytes(&in, 4) != 0)
        return false;
    uint8_t version = take_u8(&in);
    const char *augmentation = (const char *)in.at;
    size_t len = strnlen(augmentation, (size_t)(in.end - in.at));
    skip(&in, len + 1);
    if (in.bad || version != 1 || augmentation[0] != 'z')
        return false;
    out->code_align = take_uleb(&in);
    out->data_align = take_sleb(&in);
    if (take_u8(&in) != REGISTER_RA)
        return false;
    uint64_t data_bytes = take_uleb(&in);
    struct bytes data = in;
    skip(&in, data_bytes);
    bool has_encoding = false;
    for (size_t i = 1; i < len; i++) {
        if (augmentation[i] == 'R')
            has_encoding = take_u8(&data) == PCREL_SDATA4;
        else if (augmentation[i] == 'L')
            take_u8(&data);
        else if (augmentation[i] == 'P')
            skip_personality(&data);
        else
            return false; // 'S', a signal frame; or unknown
    }
    out->common = in;
    return has_encoding && !in.bad && !data.bad;
}

static bool read_fde(const uint8_t *at, struct mapping *mapping, struct description *out) {
    struct bytes in = entry_at(at, mapping);
    const uint8_t *field = in.at;
    uint32_t to_cie = (uint32_t)take_bytes(&in, 4);
    if (in.bad || to_cie == 0 || !read_cie(field - to_cie, mapping, out))
        return false;
    const uint8_t *base = in.at;
    out->start = (uintptr_t)base + (uintptr_t)(int64_t)(int32_t)take_bytes(&in, 4);
    out->end = out->start + (uint32_t)take_bytes(&in, 4);
    skip(&in, take_uleb(&in));
    out->own = in;
    return !in.bad;
}

// The table in .eh_frame_hdr, sorted by start: pairs of 32-bit distances from the header.
static const uint8_t *find_fde(const uint8_t *header, struct mapping *mapping, uintptr_t pc) {
    enum {
        FRONT_BYTES = 12,
        ENTRY_BYTES = 8
    };
    if (!is_within(mapping, header, FRONT_BYTES) || header[0] != 1 || header[1] != PCREL_SDATA4 ||
        header[2] != UDATA4 || header[3] != DATAREL_SDATA4)
        return NULL;
    uint32_t count;
    memcpy(&count, header + 8, sizeof count);
    const uint8_t *table = header + FRONT_BYTES;
    if (count > (size_t)(mapping->end - table) / ENTRY_BYTES)
        return NULL;
    int64_t wanted = (int64_t)(pc - (uintptr_t)header);
    uint32_t low = 0, high = count; // the last that starts at or before pc
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int32_t start;
        if (!is_within(mapping, table + (size_t)ENTRY_BYTES * middle, ENTRY_BYTES))
            return NULL;
        memcpy(&start, table + (size_t)ENTRY_BYTES * middle, sizeof start);
        if (start <= wanted)
            low = middle + 1;
        else
            high = middle;
    }
    int32_t distance;
    if (low == 0 || !is_within(mapping, table + (size_t)ENTRY_BYTES * (low - 1), ENTRY_BYTES))
        return NULL;
    memcpy(&distance, table + (size_t)ENTRY_BYTES * (low - 1) + 4, sizeof distance);
    return header + distance;
}

// --- its instructions ---------------------------------------------------------------------------

enum where {
    UNCHANGED,
    IN_SLOT,
    UNDEFINED,
    ELSEWHERE // by an expression or in a register: refused
};

struct place {
    enum where where;
    int64_t offset; // from the CFA
};

struct row {
    uint64_t cfa_register; // ~0: by an expression
    int64_t cfa_offset;
    struct place rbp, ra;
};

struct machine {
    struct row row, initial, remembered[REMEMBERED_MAX];
    int remembered_count;
    uintptr_t location;
};

static void place(struct machine *machine, uint64_t number, enum where where, int64_t offset) {
    if (number == REGISTER_RBP)
        machine->row.rbp = (struct place){where, offset};
    else if (number == REGISTER_RA)
        machine->row.ra = (struct place){where, offset};
}

static void restore(struct machine *machine, uint64_t number) {
    if (number == REGISTER_RBP)
        machine->row.rbp = machine->initial.rbp;
    else if (number == REGISTER_RA)
        machine->row.ra = machine->initial.ra;
}

static void remember(struct machine *machine, struct bytes *in) {
    if (machine->remembered_count == REMEMBERED_MAX)
        in->bad = true;
    else
        machine->remembered[machine->remembered_count++] = machine->row;
}

static void restore_remembered(struct machine *machine, struct bytes *in) {
    if (machine->remembered_count == 0)
        in->bad = true;
    else
        machine->row = machine->remembered[--machine->remembered_count];
}

// DWARF 5, 7.24: the instructions without an operand in their first byte.
static void run_extended(struct machine *machine, uint8_t code, struct bytes *in,
                         const struct description *of) {
    uint64_t number;
    switch (code) {
    case 0x00: // DW_CFA_nop
        break;
    case 0x02: // DW_CFA_advance_loc1, 2, 4
        machine->location += take_u8(in) * of->code_align;
        break;
    case 0x03:
        machine->location += take_bytes(in, 2) * of->code_align;
        break;
    case 0x04:
        machine->location += take_bytes(in, 4) * of->code_align;
        break;
    case 0x05: // DW_CFA_offset_extended
        number = take_uleb(in);
        place(machine, number, IN_SLOT, (int64_t)take_uleb(in) * of->data_align);
        break;
    case 0x06: // DW_CFA_restore_extended
        restore(machine, take_uleb(in));
        break;
    case 0x07: // DW_CFA_undefined
        place(machine, take_uleb(in), UNDEFINED, 0);
        break;
    case 0x08: // DW_CFA_same_value
        place(machine, take_uleb(in), UNCHANGED, 0);
        break;
    case 0x09: // DW_CFA_register
        place(machine, take_uleb(in), ELSEWHERE, 0);
        take_uleb(in);
        break;
    case 0x0a: // DW_CFA_remember_state
        remember(machine, in);
        break;
    case 0x0b: // DW_CFA_restore_state
        restore_remembered(machine, in);
        break;
    case 0x0c: // DW_CFA_def_cfa
        machine->row.cfa_register = take_uleb(in);
        machine->row.cfa_offset = (int64_t)take_uleb(in);
        break;
    case 0x0d: // DW_CFA_def_cfa_register
        machine->row.cfa_register = take_uleb(in);
        break;
    case 0x0e: // DW_CFA_def_cfa_offset
        machine->row.cfa_offset = (int64_t)take_uleb(in);
        break;
    case 0x0f: // DW_CFA_def_cfa_expression
        machine->row.cfa_register = ~0ull;
        skip(in, take_uleb(in));
        break;
    case 0x10: // DW_CFA_expression, val_expression
    case 0x16:
        place(machine, take_uleb(in), ELSEWHERE, 0);
        skip(in, take_uleb(in));
        break;
    case 0x2e: // DW_CFA_GNU_args_size
        take_uleb(in);
        break;
    default:
        in->bad = true;
    }
}

// Up to the row of pc. False where something was not understood.
static bool run(struct machine *machine, struct bytes in, const struct description *of,
                uintptr_t pc) {
    while (in.at < in.end && !in.bad) {
        uint8_t code = take_u8(&in), operand = code & 0x3f;
        switch (code & 0xc0) {
        case 0x40: // DW_CFA_advance_loc
            machine->location += operand * of->code_align;
            break;
        case 0x80: // DW_CFA_offset
            place(machine, operand, IN_SLOT, (int64_t)take_uleb(&in) * of->data_align);
            break;
        case 0xc0: // DW_CFA_restore
            restore(machine, operand);
            break;
        default:
            run_extended(machine, code, &in, of);
        }
        if (machine->location > pc)
            break;
    }
    return !in.bad;
}

static struct frame_rule rule_of(const struct row *row) {
    struct frame_rule rule = FRAME_RULE_REFUSED;
    if (row->ra.where == UNDEFINED) {
        rule.kind = FRAME_OUTERMOST;
        return rule;
    }
    bool in_reach = row->cfa_offset > -(1 << 30) && row->cfa_offset < 1 << 30 &&
                    row->rbp.offset > INT16_MIN && row->rbp.offset < -8;
    bool is_plain = row->ra.where == IN_SLOT && row->ra.offset == -8 &&
                    (row->rbp.where == UNCHANGED || (row->rbp.where == IN_SLOT && in_reach));
    if (!is_plain || row->cfa_offset < -(1 << 30) || row->cfa_offset > 1 << 30)
        return rule;
    if (row->cfa_register == REGISTER_RSP)
        rule.kind = FRAME_BY_RSP;
    else if (row->cfa_register == REGISTER_RBP)
        rule.kind = FRAME_BY_RBP;
    rule.cfa_offset = (int32_t)row->cfa_offset;
    rule.rbp_offset = row->rbp.where == IN_SLOT ? (int16_t)row->rbp.offset : FRAME_RBP_KEPT;
    return rule;
}

#ifdef DLFO_STRUCT_HAS_EH_DBASE
// Of a file whose segments have gaps between them (node) libc tells the segment that the code is
// in. The tables are in another one then: within 2 GB, since their distances have 32 bits.
static struct mapping mapping_of(const struct dl_find_object *found) {
    const uintptr_t reach = (uintptr_t)INT32_MAX + 1;
    const uint8_t *header = found->dlfo_eh_frame;
    if (header >= (uint8_t *)found->dlfo_map_start && header < (uint8_t *)found->dlfo_map_end)
        return (struct mapping){.start = found->dlfo_map_start, .end = found->dlfo_map_end};
    return (struct mapping){.start = (uintptr_t)header > reach ? header - reach : NULL,
                            .end = header + reach};
}

static bool describe(uintptr_t pc, struct description *out) {
    struct dl_find_object found;
    if (!_dl_find_object || _dl_find_object((void *)pc, &found) != 0 || !found.dlfo_eh_frame)
        return false;
    struct mapping mapping = mapping_of(&found);
    const uint8_t *fde = find_fde(found.dlfo_eh_frame, &mapping, pc);
    return fde && read_fde(fde, &mapping, out) && pc >= out->start && pc < out->end;
}
#else
static bool describe(uintptr_t pc, struct description *out) {
    (void)pc;
    (void)out;
    return false;
}
#endif

struct frame_rule frame_rule_at(uintptr_t pc) {
    const struct frame_rule refused = FRAME_RULE_REFUSED;
    struct description description;
    pc--; // a call may be the last instruction of its function
    if (!describe(pc, &description))
        return refused;
    struct machine machine = {.row = {.cfa_register = ~0ull}};
    if (!run(&machine, description.common, &description, UINTPTR_MAX))
        return refused;
    machine.initial = machine.row;
    machine.location = description.start;
    if (!run(&machine, description.own, &description, pc))
        return refused;
    return rule_of(&machine.row);
}
