// Reports that are only counted: report/trigger.h, linked in place of report/trigger.c.
#ifndef SOCKLEAK_TESTS_UNIT_FAKE_TRIGGER_H
#define SOCKLEAK_TESTS_UNIT_FAKE_TRIGGER_H

extern int fake_trigger_live_reports;
// A pipe's write end: an end of the process writes one byte there. -1: nowhere.
extern int fake_trigger_ends;

#endif
