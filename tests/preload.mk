# Hook tests: cmocka programs that bring themselves under LD_PRELOAD=$(LIBRARY), included by the
# Makefile. PRELOAD_TESTS lists them; each exits 0, 1, or 77 (skipped, with the reason).

PRELOAD_TEST_SHARED := $(addprefix tests/preload/,ledger_view.c rig.c)
PRELOAD_TESTS := $(patsubst tests/preload/%.c,$(BUILD)/tests/preload/%,\
	$(wildcard tests/preload/test_*.c))

# Frames are looked up in functions as they were written, so they are neither merged nor cut.
PRELOAD_TEST_CFLAGS := -Ipreload -Itests/preload -O1 -fno-omit-frame-pointer -pthread

$(BUILD)/tests/preload/test_%: tests/preload/test_%.c $(PRELOAD_TEST_SHARED) \
		$(wildcard tests/preload/*.h preload/*/*.h) preload/hooks/real.def tests/preload.mk | $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) $(PRELOAD_TEST_CFLAGS) $(LDFLAGS) \
		-o $@ $< $(PRELOAD_TEST_SHARED) -lcmocka -ldl -lpthread
