// The same where the C library is older than 2.35, and has no _dl_find_object (tests/unit.mk).
#include "test_modules.c"
