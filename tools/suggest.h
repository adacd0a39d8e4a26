// The word that somebody who mistyped probably meant.
#ifndef SOCKLEAK_TOOLS_SUGGEST_H
#define SOCKLEAK_TOOLS_SUGGEST_H

// The nearest of `words` (ended by NULL) to `word`, or NULL where none is near: at most one
// insertion, deletion, replacement or swap of neighbours for each three letters begun. A word that
// begins with what was typed counts as near, too.
const char *suggest(const char *word, const char *const *words);

#endif
