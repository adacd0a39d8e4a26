// The file that a recorded module was loaded from, with its symbols and debug information: opened
// once, and only where it is the very file that ran.
#ifndef SOCKLEAK_TOOLS_MODULE_FILE_H
#define SOCKLEAK_TOOLS_MODULE_FILE_H

#include "model.h"
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>

struct module_symbol {
    GElf_Addr address, end; // as the file counts; end 0: no size
    const char *name;       // the file's
    int rank;               // of several at one address, the highest is shown
};

struct module_file {
    Dwfl *dwfl;
    Dwfl_Module *module;
    GElf_Addr bias; // of dwfl's addresses over the file's
    Dwarf *dwarf;   // NULL: no debug information
    Dwarf_Addr dwarf_bias;
    struct module_symbol *symbols; // functions by address
    size_t symbol_count;
};

// Opens module->path, or what /usr/lib/debug/.build-id has for it. Where neither is to be had it
// returns -ENOENT, sets module->problem, and `out` is empty; free it all the same.
int module_file_open(struct module_file *out, struct report *report, struct report_module *module);

void module_file_close(struct module_file *file);

// The function symbol that covers an address; NULL where there is none.
const struct module_symbol *module_file_symbol(const struct module_file *file, GElf_Addr address);

#endif
