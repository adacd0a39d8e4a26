// Names as the source has them.
#ifndef SOCKLEAK_TOOLS_DEMANGLE_H
#define SOCKLEAK_TOOLS_DEMANGLE_H

// The readable form of a linker's name: C++, and Rust in both its forms. Any other name comes back
// as it is. What compilers append to parts of a function (".isra.0", ".cold") is left out. Free the
// result.
char *demangle(const char *name);

#endif
