# Which lines of preload/ and tools/ the tests run, by gcov. Included by the Makefile, which has what
# COVERAGE=1 does to the flags. What is of another processor than this one's is not counted.

COVERAGE_DIR := $(BUILD)/coverage
COVERAGE_BUILD := $(if $(filter command%,$(origin BUILD)),$(BUILD),build-coverage)
COVERAGE_LEAST ?= 90

# gcov writes its counters when exit() has run the destructors: these write them at other ends.
ifeq ($(COVERAGE),1)
PRELOAD_OBJECTS += $(COVERAGE_DIR)/dump.o
$(LIBRARY): LDFLAGS += -Wl,--wrap=trigger_end,--wrap=program_exec_begin
$(UNIT_TESTS): $(COVERAGE_DIR)/dump_in_children.o
$(UNIT_TESTS): LDFLAGS += -Wl,--wrap=_exit
$(SOCKLEAK): $(COVERAGE_DIR)/dump_in_children.o $(COVERAGE_DIR)/dump_looks.o
$(SOCKLEAK): private LDFLAGS += -Wl,--wrap=_exit,--wrap=watch_look
# Not instrumented themselves: a program that uses up its descriptors would hear gcov complain.
$(PRELOAD_TESTS): private CFLAGS := $(filter-out --coverage,$(CFLAGS))
$(PRELOAD_TESTS): private LDFLAGS := $(filter-out --coverage,$(LDFLAGS))
endif

$(COVERAGE_DIR)/%.o: tests/coverage/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out --coverage,$(CFLAGS)) $(PRELOAD_CFLAGS) $(TOOLS_CPPFLAGS) -c -o $@ $<

# Other people's suites, stress and thousands of hostile ledgers run the same lines for minutes more.
COVERAGE_SCRIPTS := $(UNIT_SCRIPTS) \
	$(wildcard tests/e2e/test_*.py tests/tools/test_*.py tests/ends/test_*.py)
COVERAGE_PROGRAMS := $(patsubst $(BUILD)/%,$(COVERAGE_BUILD)/%,$(filter-out %/test_hostile,$(TOOL_TESTS)))

.PHONY: coverage
coverage: ## run the tests instrumented, and print the lines that none runs (fails below 90 %)
	$(QUIET)$(MAKE) --no-print-directory COVERAGE=1 BUILD=$(COVERAGE_BUILD) \
		E2E_TESTS="$(COVERAGE_SCRIPTS)" TOOL_TESTS="$(COVERAGE_PROGRAMS)" FUZZ_TESTS= coverage-built

# The counters' files are there before the tests, writable for all: some tests change their user.
# A test that counts microseconds may fail under gcov; that is for `make check` to tell.
.PHONY: coverage-built
coverage-built: all $(UNIT_TESTS) $(PRELOAD_TESTS) $(TOOL_TESTS) $(ENDS_PROGRAMS)
	$(QUIET)find $(BUILD) -name '*.gcda' -delete
	$(QUIET)umask 0; find $(abspath $(BUILD)) -name '*.gcno' | sed 's/gcno$$/gcda/' | xargs touch
	$(QUIET)BUILD=$(BUILD) GCOV_ERROR_FILE=/dev/null tests/run --jobs 2 --timeout 300 $(TESTS) || true
	$(QUIET)find $(BUILD) -name '*.gcda' -empty -delete # gcov takes no empty ones
	$(QUIET)tests/coverage/table.py --at-least $(COVERAGE_LEAST) $(BUILD) preload tools
