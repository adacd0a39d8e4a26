#include "track/without_file.h"
#include "base/notice.h"
#include "base/options.h"
#include "base/sys.h"
#include "ledger/ledger.h"
#include <string.h>

static int told_of; // pid of the process whose beginning was told

static void tell(enum notice_kind kind, uint64_t leaks) {
    struct notice notice = {.type = kind, .pid = (uint32_t)sys_getpid()};
    notice.start_time_ticks = ledger.header->start_time_ticks;
    notice.leaks = leaks < UINT32_MAX ? (uint32_t)leaks : UINT32_MAX;
    memcpy(notice.text, ledger.header->exe, sizeof notice.text - 1);
    notice_send(options.ledger_dir, &notice);
}

static bool is_without_file(void) {
    return options.ledger_dir[0] && ledger_exists() && !ledger_is_file();
}

void without_file_begun(void) {
    if (!is_without_file())
        return;
    told_of = sys_getpid();
    tell(NOTICE_LEDGER_PRIVATE, 0);
}

void without_file_ended(uint64_t leaks) {
    if (is_without_file() && (leaks || told_of == sys_getpid()))
        tell(NOTICE_LEDGER_LOST, leaks);
}

bool without_file_execs(void) {
    bool told = is_without_file() && told_of == sys_getpid();
    if (told)
        tell(NOTICE_LEDGER_LOST, 0);
    return told;
}

void without_file_exec_failed(bool told) {
    if (told)
        tell(NOTICE_LEDGER_PRIVATE, 0);
}
