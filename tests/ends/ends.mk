# The table of all ends of a process, included by the Makefile: the programs that end, and the
# targets that show it.

ENDS_DIR := $(BUILD)/tests/ends
ENDS_SOURCES := $(wildcard tests/ends/ends*.c) tests/preload/rig.c
ENDS_PROGRAMS := $(addprefix $(ENDS_DIR)/,ends next next-static next-setuid)

$(ENDS_DIR)/ends: $(ENDS_SOURCES) tests/ends/ends.h tests/preload/rig.h preload/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,tests/ends)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) $(PRELOAD_TEST_CFLAGS) $(LDFLAGS) \
		-o $@ $(ENDS_SOURCES) -lcmocka -lpthread

$(ENDS_DIR)/next: tests/ends/next.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) -o $@ $<

# Not everybody has a static C library, or may give files away: test_ends.py says so then.
$(ENDS_DIR)/next-static: tests/ends/next.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) -static -O1 -o $@ $< 2>/dev/null || printf '' > $@

$(ENDS_DIR)/next-setuid: $(ENDS_DIR)/next
	$(QUIET)cp $< $@
	$(QUIET)chown 65534 $@ 2>/dev/null && chmod 4755 $@ || true

check-built: $(ENDS_PROGRAMS)

.PHONY: ends-table
ends-table: all $(ENDS_PROGRAMS) ## run every end of a process, and print what is found as a Markdown table
	$(QUIET)BUILD=$(BUILD) /usr/bin/python3 tests/ends/test_ends.py --markdown
