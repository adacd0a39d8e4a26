# The differential stress against the kernel: tests/stress, included by the Makefile. A bounded
# slice of it is one of the tests of `make check`.

STRESS := $(BUILD)/tests/stress/stress
STRESS_SOURCES := $(addprefix tests/stress/,stress.c operations.c children.c check.c judge.c \
	model.c sites.c) tests/preload/ledger_view.c
STRESS_SCRIPTS := tests/stress/test_stress.py

$(STRESS): $(STRESS_SOURCES) $(wildcard tests/stress/*.h tests/stress/*.def tests/preload/*.h \
		preload/*/*.h) tests/stress.mk | $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) -Ipreload -Itests/preload -O1 \
		-fno-omit-frame-pointer -pthread $(LDFLAGS) -o $@ $(STRESS_SOURCES) -ldl -lpthread

.PHONY: stress
stress: $(LIBRARY) $(TOOLS) $(STRESS) ## random operations against the kernel's table (SECONDS=60)
	$(QUIET)BUILD=$(BUILD) /usr/bin/python3 tests/stress/run.py --seconds $(or $(SECONDS),60)
