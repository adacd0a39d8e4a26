// The same where the program's segments have gaps between them, as node's do (tests/unit.mk).
#include "test_modules.c"
