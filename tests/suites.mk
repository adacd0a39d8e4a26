# Other people's test suites and long runs of their programs (tests/suites/), bare and preloaded.
# Included by the Makefile: uses its BUILD, CC, CPPFLAGS, CFLAGS, QUIET, say and SUITE_PACKAGES.

# Part of `make check`: the tests of the runner, and those suites that fit there.
SUITE_TESTS := tests/suites/test_runner.py tests/suites/test_quick.py
SUITE_WITNESS := $(BUILD)/tests/suites/witness

$(BUILD)/tests/suites/%: tests/suites/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) -o $@ $<

.PHONY: suite-deps
suite-deps: deps ## install what `make suites` needs besides
	@$(MAKE) --no-print-directory deps PACKAGES="$(SUITE_PACKAGES)"

.PHONY: suites
suites: suite-deps ## other people's test suites, bare and preloaded (20 minutes; SUITES=names for less)
	@$(MAKE) --no-print-directory suites-built

.PHONY: suites-built
suites-built: all $(SUITE_WITNESS)
	$(QUIET)BUILD=$(BUILD) /usr/bin/python3 tests/suites/suites.py $(SUITES)
