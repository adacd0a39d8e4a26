# The unit tests: each module, linked without LD_PRELOAD against what it stands on, or fakes of it.
# Included by the top Makefile, after PRELOAD_CFLAGS.
#
# A map: module under test first, then what else of preload/ is linked, then what of tests/unit/.

UNIT_ON_LEDGER := ledger/ledger ledger/cut ledger/shrink ledger/fork ledger/records ledger/sites ledger/backing base/process base/format
UNIT_STACKS := track/stacks track/walks track/fast_unwind track/frame_rules_$(ARCH)

unit_format := base/format
unit_options := base/options base/format
unit_output := base/output base/format + fake_clock sockets
unit_clock := base/clock
unit_guard := base/guard
unit_owner := base/owner
unit_process := base/process base/format
unit_apart := base/apart base/process base/format
unit_backing := ledger/backing base/process base/format
unit_ledger := $(UNIT_ON_LEDGER) base/clock
unit_ledger_limits := $(UNIT_ON_LEDGER) base/clock
unit_ledger_fork := $(UNIT_ON_LEDGER) base/clock
unit_modules := track/modules $(UNIT_ON_LEDGER) base/clock
unit_modules_by_lock := $(unit_modules)
unit_modules_with_gaps := $(unit_modules)
unit_stacks := $(UNIT_STACKS) track/modules $(UNIT_ON_LEDGER) base/clock base/guard + fake_unwinder
unit_stacks_race := $(UNIT_STACKS) $(UNIT_ON_LEDGER) base/clock base/guard + fake_unwinder
unit_frame_rules := track/frame_rules_$(ARCH)
unit_fast_unwind := track/fast_unwind track/frame_rules_$(ARCH)
unit_walks := track/walks track/fast_unwind track/frame_rules_$(ARCH) track/modules $(UNIT_ON_LEDGER) base/clock
unit_tracker := track/tracker track/births track/told track/numbers track/addresses track/endings track/unasked $(UNIT_STACKS) track/modules $(UNIT_ON_LEDGER) base/guard base/owner \
	base/options + fake_unwinder fake_clock sockets
unit_tracker_stream := $(unit_tracker) connections
unit_endings := $(unit_tracker) connections
unit_addresses := $(unit_tracker) connections
unit_sites := $(unit_endings)
unit_exhaustion := report/exhaustion report/text report/teardown report/names report/verdict $(unit_tracker)
unit_verdict := report/verdict
unit_names := report/names
unit_cause := report/cause report/names report/text report/teardown report/verdict base/format
unit_teardown := report/teardown
unit_text := report/text report/teardown report/names report/verdict base/format
unit_scratch := report/scratch
unit_symbols := report/symbols report/scratch
unit_facts := report/facts track/addresses $(UNIT_ON_LEDGER) base/clock + sockets
unit_snapshot := report/snapshot base/apart report/facts report/scratch track/addresses track/endings track/unasked \
	$(UNIT_STACKS) track/modules base/guard $(UNIT_ON_LEDGER) base/clock + sockets fake_unwinder
unit_signals := report/signals report/interrupted base/options base/format base/owner $(UNIT_ON_LEDGER) base/clock + fake_trigger

UNIT_NAMES := $(patsubst tests/unit/test_%.c,%,$(wildcard tests/unit/test_*.c))
UNIT_TESTS := $(UNIT_NAMES:%=$(BUILD)/tests/unit/test_%)
UNIT_SCRIPTS := tests/unit/test_run.py

unit_helpers_of = $(filter fake_% sockets connections,$(unit_$(1)))
unit_modules_of = $(filter-out $(unit_helpers_of) +,$(unit_$(1)))
unit_objects_of = $(patsubst %,$(BUILD)/preload/%.c.o,$(unit_modules_of)) \
	$(patsubst %,$(BUILD)/tests/unit/%.o,test_$(1) unit $(unit_helpers_of))

$(BUILD)/tests/unit/%.o: tests/unit/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) -Ipreload -c -o $@ $<

define unit_program
$(BUILD)/tests/unit/test_$(1): $(unit_objects_of)
	$$(call say,LINK,$$@)
	$$(QUIET)$$(CC) $$(if $$(LTO),-fno-lto) $$(LDFLAGS) -o $$@ $$^ -lcmocka -ldl -lpthread
endef
$(foreach name,$(UNIT_NAMES),$(eval $(call unit_program,$(name))))

# A module whose addresses are not those of its file less the start: only a fixed program has one.
$(patsubst %,$(BUILD)/tests/unit/test_%,modules modules_by_lock modules_with_gaps): LDFLAGS += -no-pie
$(BUILD)/tests/unit/test_modules_by_lock: LDFLAGS += -Wl,--defsym=_dl_find_object=0
$(BUILD)/tests/unit/test_modules_with_gaps: LDFLAGS += -Wl,--section-start=.text=0x2000000

.PHONY: unit
unit: $(UNIT_TESTS) ## build and run the unit tests
	$(QUIET)BUILD=$(BUILD) tests/run $(foreach name,$(UNIT_NAMES),unit/$(name)=$(BUILD)/tests/unit/test_$(name)) \
		unit/run=$(UNIT_SCRIPTS)

.SECONDARY: $(foreach name,$(UNIT_NAMES),$(call unit_objects_of,$(name)))
-include $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%.d,$(wildcard tests/unit/*.c))
