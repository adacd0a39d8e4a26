#include "debug_lines.h"
#include "errors.h"
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

enum {
    WALK_DEPTH_MAX = 64,
    RANGES_MAX = 1 << 24 // of one file; a damaged one must not take all memory
};

struct range {
    Dwarf_Addr start, end;
    uint32_t unit;   // of a unit
    Dwarf_Die entry; // of a function
};

struct ranges {
    struct range *list; // by start
    size_t count, room;
};

struct unit {
    Dwarf_Die entry;     // lines
    Dwarf_Die functions; // the same; with split DWARF, of the other file
    struct ranges index; // of functions, made at the first question
    bool is_indexed;
};

struct debug_lines {
    Dwarf_Addr bias; // of DWARF's addresses under the file's
    struct unit *units;
    uint32_t unit_count, units_room;
    struct ranges index; // of units
};

// --- ranges -------------------------------------------------------------------------------------

static struct range *add_range(struct ranges *ranges, Dwarf_Addr start, Dwarf_Addr end) {
    if (start >= end || ranges->count >= RANGES_MAX)
        return NULL;
    if (ranges->count == ranges->room) {
        ranges->room = ranges->room ? 2 * ranges->room : 64;
        ranges->list = must_reallocate(ranges->list, ranges->room, sizeof *ranges->list);
    }
    struct range *range = &ranges->list[ranges->count++];
    memset(range, 0, sizeof *range);
    range->start = start;
    range->end = end;
    return range;
}

static int by_start(const void *a, const void *b) {
    const struct range *one = a, *other = b;
    if (one->start != other->start)
        return one->start < other->start ? -1 : 1;
    return one->end < other->end ? -1 : one->end > other->end;
}

// The last range that starts at or before the address, and covers it. Ranges of different units or
// functions do not overlap, but for the damage or a linker's leftovers at address 0.
static const struct range *covering(const struct ranges *ranges, Dwarf_Addr address) {
    size_t low = 0, high = ranges->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges->list[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    for (size_t i = low, tries = 0; i-- > 0 && tries < 8; tries++)
        if (address < ranges->list[i].end)
            return &ranges->list[i];
    return NULL;
}

// --- units --------------------------------------------------------------------------------------

static void add_unit(struct debug_lines *lines, const Dwarf_Die *entry, const Dwarf_Die *split) {
    Dwarf_Addr base = 0, start, end;
    ptrdiff_t at = 0;
    Dwarf_Die die = *entry;
    if (lines->unit_count == lines->units_room) {
        lines->units_room = lines->units_room ? 2 * lines->units_room : 64;
        lines->units = must_reallocate(lines->units, lines->units_room, sizeof *lines->units);
    }
    bool has_split = split->addr && dwarf_tag((Dwarf_Die *)split) == DW_TAG_compile_unit;
    lines->units[lines->unit_count] =
        (struct unit){.entry = *entry, .functions = has_split ? *split : *entry};
    while ((at = dwarf_ranges(&die, at, &base, &start, &end)) > 0) {
        struct range *range = add_range(&lines->index, start, end);
        if (range)
            range->unit = lines->unit_count;
    }
    lines->unit_count++;
}

struct debug_lines *debug_lines_open(const struct module_file *file) {
    if (!file->dwarf)
        return NULL;
    struct debug_lines *lines = must_allocate(1, sizeof *lines);
    lines->bias = file->dwarf_bias - file->bias;
    Dwarf_CU *unit = NULL;
    Dwarf_Half version;
    uint8_t type;
    Dwarf_Die entry, split;
    while (dwarf_get_units(file->dwarf, unit, &unit, &version, &type, &entry, &split) == 0)
        if (type == DW_UT_compile || type == DW_UT_skeleton || type == DW_UT_partial)
            add_unit(lines, &entry, &split);
    if (lines->index.count)
        qsort(lines->index.list, lines->index.count, sizeof *lines->index.list, by_start);
    return lines;
}

void debug_lines_close(struct debug_lines *lines) {
    if (!lines)
        return;
    for (uint32_t i = 0; i < lines->unit_count; i++)
        free(lines->units[i].index.list);
    free(lines->units);
    free(lines->index.list);
    free(lines);
}

// --- functions ----------------------------------------------------------------------------------

static void add_function(struct unit *unit, Dwarf_Die *function) {
    Dwarf_Addr base = 0, start, end;
    ptrdiff_t at = 0;
    while ((at = dwarf_ranges(function, at, &base, &start, &end)) > 0) {
        struct range *range = add_range(&unit->index, start, end);
        if (range)
            range->entry = *function;
    }
}

// Functions stand at the top, in namespaces and in classes; those within other functions are left
// to dwarf_getscopes().
static void walk(struct unit *unit, Dwarf_Die *parent, int depth) {
    Dwarf_Die child;
    if (depth > WALK_DEPTH_MAX || dwarf_child(parent, &child) != 0)
        return;
    do {
        switch (dwarf_tag(&child)) {
        case DW_TAG_subprogram:
            add_function(unit, &child);
            break;
        case DW_TAG_namespace:
        case DW_TAG_class_type:
        case DW_TAG_structure_type:
        case DW_TAG_union_type:
        case DW_TAG_module:
            walk(unit, &child, depth + 1);
            break;
        default:
            break;
        }
    } while (dwarf_siblingof(&child, &child) == 0);
}

static bool find_function(struct unit *unit, Dwarf_Addr address, Dwarf_Die *out) {
    if (!unit->is_indexed) {
        unit->is_indexed = true;
        walk(unit, &unit->functions, 0);
        if (unit->index.count)
            qsort(unit->index.list, unit->index.count, sizeof *unit->index.list, by_start);
    }
    const struct range *range = covering(&unit->index, address);
    if (range) {
        *out = range->entry;
        return true;
    }
    Dwarf_Die *scopes = NULL;
    int count = dwarf_getscopes(&unit->functions, address, &scopes);
    bool found = false;
    for (int i = 0; i < count && !found; i++)
        if (dwarf_tag(&scopes[i]) == DW_TAG_subprogram) {
            *out = scopes[i];
            found = true;
        }
    free(scopes);
    return found;
}

static const char *text_of(Dwarf_Die *entry, unsigned name) {
    Dwarf_Attribute attribute;
    return dwarf_formstring(dwarf_attr_integrate(entry, name, &attribute));
}

static const char *name_of(Dwarf_Die *entry) {
    const char *name = text_of(entry, DW_AT_linkage_name);
    if (!name)
        name = text_of(entry, DW_AT_MIPS_linkage_name);
    return name ? name : text_of(entry, DW_AT_name);
}

// --- inlined functions --------------------------------------------------------------------------

// The functions inlined at an address, from the outermost; `function` itself is chain[0].
static uint32_t inlined_at(Dwarf_Die *function, Dwarf_Addr address, Dwarf_Die *chain) {
    uint32_t count = 0;
    Dwarf_Die scope = *function, child;
    chain[count++] = *function;
    for (int depth = 0; depth < 4 * WALK_DEPTH_MAX && count < DEBUG_LINES_DEPTH_MAX; depth++) {
        bool deeper = false;
        if (dwarf_child(&scope, &child) != 0)
            break;
        do {
            int tag = dwarf_tag(&child);
            if ((tag == DW_TAG_inlined_subroutine || tag == DW_TAG_lexical_block) &&
                dwarf_haspc(&child, address) > 0) {
                if (tag == DW_TAG_inlined_subroutine)
                    chain[count++] = child;
                scope = child;
                deeper = true;
            }
        } while (!deeper && dwarf_siblingof(&child, &child) == 0);
        if (!deeper)
            break;
    }
    return count;
}

// Where an inlined function was called.
static void find_call(struct unit *unit, Dwarf_Die *inlined, struct debug_line *out) {
    Dwarf_Attribute attribute;
    Dwarf_Word file, line;
    Dwarf_Files *files;
    size_t count;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &line) == 0)
        out->line = (uint32_t)line;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &file) == 0 &&
        dwarf_getsrcfiles(&unit->functions, &files, &count) == 0 && file < count)
        out->file = dwarf_filesrc(files, file, NULL, NULL);
}

static bool find_line(struct unit *unit, Dwarf_Addr address, struct debug_line *out) {
    Dwarf_Line *line = dwarf_getsrc_die(&unit->entry, address);
    int number;
    if (!line)
        return false;
    out->file = dwarf_linesrc(line, NULL, NULL);
    if (dwarf_lineno(line, &number) == 0 && number > 0)
        out->line = (uint32_t)number;
    return true;
}

bool debug_lines_find(struct debug_lines *lines, Dwarf_Addr address, struct debug_place *out) {
    memset(out, 0, sizeof *out);
    if (!lines)
        return false;
    address -= lines->bias;
    const struct range *range = covering(&lines->index, address);
    if (!range)
        return false;
    struct unit *unit = &lines->units[range->unit];
    Dwarf_Die function, chain[DEBUG_LINES_DEPTH_MAX];
    bool has_line = find_line(unit, address, &out->lines[0]);
    out->count = 1;
    if (!find_function(unit, address, &function))
        return has_line;
    uint32_t depth = inlined_at(&function, address, chain);
    out->count = depth;
    for (uint32_t i = 0; i < depth; i++) {
        Dwarf_Die *entry = &chain[depth - 1 - i];
        out->lines[i].function = name_of(entry);
        if (i + 1 < depth)
            find_call(unit, entry, &out->lines[i + 1]);
    }
    if (dwarf_entrypc(&function, &out->start) == 0) {
        out->start += lines->bias;
        out->has_start = true;
    }
    return true;
}
