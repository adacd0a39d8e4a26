// Closes of many descriptors at once, whichever way they were called.
#ifndef SOCKLEAK_HOOKS_CLOSING_H
#define SOCKLEAK_HOOKS_CLOSING_H

// Before close_range(2) with these arguments: tells the tracker what will be closed, where the
// kernel will close it.
void closing_range(unsigned first, unsigned last, unsigned flags, const void *caller);

#endif
