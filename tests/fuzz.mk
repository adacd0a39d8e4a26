# Fuzz targets (libFuzzer, clang's), included by the Makefile. `make fuzz SECONDS=600` runs each of them
# for that long; `make check` replays the corpus and what once crashed, and runs a few thousand more
# inputs. Without clang and its runtime the check's part is skipped (status 77).

FUZZ_TARGETS := ledger json suppress options names
FUZZ_PROGRAMS := $(FUZZ_TARGETS:%=$(BUILD)/fuzz/%)
FUZZ_SEEDS := $(BUILD)/fuzz/seeds/made

# What the targets link: everything below the subcommands, and of the library the option parser.
FUZZ_SOURCES := $(filter-out $(TOOLS_COMMANDS:%=tools/%.c),$(TOOLS_SOURCES)) $(TOOLS_SHARED) \
	preload/base/options.c tests/fuzz/fuzz.c
FUZZ_OBJECTS := $(FUZZ_SOURCES:%=$(BUILD)/fuzz/objects/%.o) $(BUILD)/fuzz/objects/profile.pb-c.o

# Flags of its own: CFLAGS may ask for another compiler's, or for another sanitizer.
FUZZ_CC ?= clang
FUZZ_CFLAGS := -O1 -g -std=gnu11 -fno-common -fno-omit-frame-pointer -MMD -MP \
	-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all

# Sub-makes, since whether they can be built shows only after `make deps`.
.PHONY: fuzz
fuzz: ## run each fuzz target for SECONDS (600)
	$(QUIET)tests/fuzz/run.py --can-build $(FUZZ_CC)
	$(QUIET)$(MAKE) --no-print-directory $(FUZZ_PROGRAMS) $(FUZZ_SEEDS)
	$(QUIET)BUILD=$(BUILD) tests/fuzz/run.py --seconds $(or $(SECONDS),600) $(FUZZ_TARGETS)

# For `make check`. What both makes would build at the same time is built first.
.PHONY: fuzz-built
fuzz-built: $(TOOLS_ARCHIVE) $(BUILD)/tests/tools/ledger_image.o $(TOOLS_PROFILE).h
	$(QUIET)if tests/fuzz/run.py --can-build $(FUZZ_CC) >/dev/null; then \
		$(MAKE) --no-print-directory $(FUZZ_PROGRAMS) $(FUZZ_SEEDS); fi

FUZZ_TESTS := $(foreach t,$(FUZZ_TARGETS),fuzz/$(t)=tests/fuzz/run.py\ $(t))

$(BUILD)/fuzz/objects/%.c.o: %.c
	@mkdir -p $(@D)
	$(call say,FUZZ,$<)
	$(QUIET)$(FUZZ_CC) $(CPPFLAGS) $(TOOLS_CPPFLAGS) -Itests/fuzz $(WARNINGS) $(FUZZ_CFLAGS) -c -o $@ $<

$(BUILD)/fuzz/objects/tools/format_pprof.c.o: $(TOOLS_PROFILE).h

$(BUILD)/fuzz/objects/profile.pb-c.o: $(TOOLS_PROFILE).c
	@mkdir -p $(@D)
	$(call say,FUZZ,$<)
	$(QUIET)$(FUZZ_CC) $(TOOLS_CPPFLAGS) $(FUZZ_CFLAGS) -w -c -o $@ $<

$(FUZZ_PROGRAMS): $(BUILD)/fuzz/%: $(BUILD)/fuzz/objects/tests/fuzz/fuzz_%.c.o $(FUZZ_OBJECTS)
	$(call say,LINK,$@)
	$(QUIET)$(FUZZ_CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(TOOLS_LIBS)

$(BUILD)/fuzz/make_seeds: tests/fuzz/make_seeds.c $(BUILD)/tests/tools/ledger_image.o $(TOOLS_ARCHIVE)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(TOOLS_CPPFLAGS) -Itests/tools $(CFLAGS) $(LDFLAGS) -o $@ $^ $(TOOLS_LIBS)

$(FUZZ_SEEDS): $(BUILD)/fuzz/make_seeds
	$(call say,SEEDS,$(@D))
	$(QUIET)rm -rf $(@D) && $< $(@D) && touch $@

-include $(FUZZ_OBJECTS:.o=.d) $(wildcard $(BUILD)/fuzz/objects/tests/fuzz/*.d)
