#include "fake_trigger.h"
#include "report/trigger.h"
#include <unistd.h>

int fake_trigger_live_reports;
int fake_trigger_ends = -1;

int trigger_end(enum ledger_ended ended, int status, const char *when) {
    (void)when;
    char byte = (char)ended;
    if (fake_trigger_ends >= 0 && write(fake_trigger_ends, &byte, 1) != 1)
        _exit(99);
    return status;
}

void trigger_live(const char *when) {
    (void)when;
    fake_trigger_live_reports++;
}
