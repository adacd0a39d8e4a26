#include "base/guard.h"

THREAD_LOCAL volatile int guard_depth;
