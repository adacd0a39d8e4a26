#include "suggest.h"
#include <stddef.h>
#include <string.h>

enum {
    WORD_MAX = 40, // longer is no option of ours
    PREFIX_MIN = 2
};

static unsigned least(unsigned a, unsigned b) {
    return a < b ? a : b;
}

// Optimal string alignment: Levenshtein's distance, with the swap of two neighbours as one step.
static unsigned distance(const char *a, const char *b) {
    size_t a_len = strlen(a), b_len = strlen(b);
    unsigned rows[3][WORD_MAX + 1];
    unsigned *before = rows[0], *above = rows[1], *row = rows[2];
    if (a_len > WORD_MAX || b_len > WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= b_len; j++)
        above[j] = (unsigned)j;
    for (size_t i = 1; i <= a_len; i++) {
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = least(replaced, least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], before[j - 2] + 1);
        }
        unsigned *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[b_len];
}

const char *suggest(const char *word, const char *const *words) {
    const char *best = NULL;
    size_t len = strlen(word);
    unsigned best_distance = (unsigned)(len + 2) / 3 + 1;
    for (; *words; words++) {
        unsigned steps = distance(word, *words);
        if (len >= PREFIX_MIN && strncmp(word, *words, len) == 0)
            steps = 1;
        if (steps < best_distance) {
            best = *words;
            best_distance = steps;
        }
    }
    return best;
}
