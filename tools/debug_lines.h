// Source lines and inlined functions, from DWARF.
#ifndef SOCKLEAK_TOOLS_DEBUG_LINES_H
#define SOCKLEAK_TOOLS_DEBUG_LINES_H

#include "module_file.h"

struct debug_lines; // an index of a file's compilation units and their functions

// NULL where the file has no debug information. The file must stay open.
struct debug_lines *debug_lines_open(const struct module_file *file);
void debug_lines_close(struct debug_lines *lines); // NULL is allowed

enum {
    DEBUG_LINES_DEPTH_MAX = 64 // inlined functions within each other; more are left out
};

struct debug_line {
    const char *function; // linker's name, or plain; NULL
    const char *file;     // NULL
    uint32_t line;
};

struct debug_place {
    struct debug_line lines[DEBUG_LINES_DEPTH_MAX]; // innermost first; the last is the function
    uint32_t count;                                 // itself, the others are inlined into it
    Dwarf_Addr start;                               // of the function
    bool has_start;
};

// What is at an address, as the file counts. False: nothing known of it. The strings are the
// file's.
bool debug_lines_find(struct debug_lines *lines, Dwarf_Addr address, struct debug_place *out);

#endif
