# The command `sockleak`. Included by the Makefile: uses its BUILD, CC, CPPFLAGS, CFLAGS, LDFLAGS,
# QUIET and say.

.DEFAULT_GOAL := all

# What it shares with the library, compiled again for it.
TOOLS_SHARED := preload/base/clock.c preload/base/format.c preload/base/program.c \
	preload/base/notice.c preload/base/options.c preload/report/verdict.c preload/report/text.c \
	preload/report/cause.c preload/report/teardown.c \
	preload/report/names.c

# --- layer by layer: each uses only those above it ------------------------------------------------

TOOLS_BASE := errors terminal arena utf8 suggest options regular_file move_file file_place progress
TOOLS_SYSTEM := procfs diag listeners elf_facts remote thread_calls thread_registers_$(ARCH)
TOOLS_MODEL := model questions ledger_reader ledger_stacks_reader json_values json_reader json_sites_reader sources observe live
TOOLS_SYMBOLS := demangle module_file debug_lines symbolize
TOOLS_JUDGE := judge causes holders explain group sites time_wait suppress baseline finish
TOOLS_FORMATS := format text_lines format_text format_sites format_time_wait format_explain \
	format_exhaustion format_limits format_threads format_json format_json_sites format_junit format_sarif format_github \
	format_folded format_pprof format_clashes format_options
TOOLS_LIVE := visibility inspect reap remote_modules threads thread_stacks
TOOLS_RUN := watch watch_run run_descendants run_directory run_environment run_spawn run_gather run_marks run_notices run_keep
TOOLS_SCAN := scan_collect scan_group scan_text scan_json
TOOLS_COMMANDS := cmd_report cmd_run cmd_dump cmd_reap cmd_scan main

TOOLS_SOURCES := $(patsubst %,tools/%.c,$(TOOLS_BASE) $(TOOLS_SYSTEM) $(TOOLS_MODEL) \
	$(TOOLS_SYMBOLS) $(TOOLS_JUDGE) $(TOOLS_FORMATS) $(TOOLS_LIVE) $(TOOLS_RUN) $(TOOLS_SCAN) \
	$(TOOLS_COMMANDS))

# --- how ------------------------------------------------------------------------------------------

# On a new machine it comes by `make deps`, which starts make anew behind it.
PKG_CONFIG := command -v pkg-config >/dev/null && pkg-config
TOOLS_PACKAGES := libdw libelf jansson libprotobuf-c zlib libmnl libunwind-ptrace
# -isystem: others' headers do not keep our warnings.
TOOLS_CPPFLAGS := -DSOCKLEAK_LIBDIR='"$(LIBDIR)"' -Itools -Ipreload -I$(BUILD)/tools \
	$(patsubst -I%,-isystem %,$(shell $(PKG_CONFIG) --cflags $(TOOLS_PACKAGES)))
TOOLS_LIBS := $(shell $(PKG_CONFIG) --libs $(TOOLS_PACKAGES)) -liberty

SOCKLEAK := $(BUILD)/sockleak
TOOLS := $(SOCKLEAK) # part of `all`
TOOLS_OBJECTS := $(patsubst %,$(BUILD)/tools/%.o,$(TOOLS_SOURCES) $(TOOLS_SHARED))
# Everything but main(), for the tests.
TOOLS_ARCHIVE := $(BUILD)/tools/tools.a
TOOLS_PROFILE := $(BUILD)/tools/profile.pb-c

.PHONY: tools
tools: $(SOCKLEAK) ## build the sockleak command

$(SOCKLEAK): $(BUILD)/tools/tools/main.c.o $(TOOLS_ARCHIVE)
	$(call say,LINK,$@)
	$(QUIET)$(CC) $(LDFLAGS) -o $@ $^ $(TOOLS_LIBS)

$(TOOLS_ARCHIVE): $(filter-out %/main.c.o,$(TOOLS_OBJECTS)) $(TOOLS_PROFILE).o
	$(call say,AR,$@)
	$(QUIET)rm -f $@ && ar rcs $@ $^

$(BUILD)/tools/%.c.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(TOOLS_CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/tools/tools/format_pprof.c.o: $(TOOLS_PROFILE).h

# It has the LIBDIR that the installed command looks into: with another one, it is built again.
$(BUILD)/tools/tools/run_environment.c.o: $(BUILD)/tools/libdir
$(BUILD)/tools/libdir: tools-force
	@mkdir -p $(@D)
	@echo '$(LIBDIR)' | cmp -s - $@ || echo '$(LIBDIR)' > $@
.PHONY: tools-force
tools-force:

$(TOOLS_PROFILE).c $(TOOLS_PROFILE).h &: tools/profile.proto
	@mkdir -p $(@D)
	$(call say,PROTO,$<)
	$(QUIET)protoc-c --proto_path=tools --c_out=$(@D) $<

# Generated: not held to our warnings.
$(TOOLS_PROFILE).o: $(TOOLS_PROFILE).c
	$(call say,CC,$<)
	$(QUIET)$(CC) $(TOOLS_CPPFLAGS) $(filter-out -W%,$(CFLAGS)) -w -c -o $@ $<

# --- installing: recipes of the Makefile's install and uninstall -------------------------------------

define INSTALL_TOOLS
install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
	$(DESTDIR)$(PREFIX)/share/man/man7 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	$(DESTDIR)$(PREFIX)/share/sockleak
install -m 755 $(SOCKLEAK) $(DESTDIR)$(PREFIX)/bin/sockleak
install -m 644 tools/man/sockleak.1 $(DESTDIR)$(PREFIX)/share/man/man1/sockleak.1
install -m 644 tools/man/libsockleak.7 $(DESTDIR)$(PREFIX)/share/man/man7/libsockleak.7
install -m 644 tools/completions/sockleak.bash \
	$(DESTDIR)$(PREFIX)/share/bash-completion/completions/sockleak
install -m 644 tools/sockleak-report.schema.json $(DESTDIR)$(PREFIX)/share/sockleak/
endef

define UNINSTALL_TOOLS
rm -f $(DESTDIR)$(PREFIX)/bin/sockleak $(DESTDIR)$(PREFIX)/share/man/man1/sockleak.1 \
	$(DESTDIR)$(PREFIX)/share/man/man7/libsockleak.7 \
	$(DESTDIR)$(PREFIX)/share/bash-completion/completions/sockleak \
	$(DESTDIR)$(PREFIX)/share/sockleak/sockleak-report.schema.json
if [ -d $(DESTDIR)$(PREFIX)/share/sockleak ]; then rmdir $(DESTDIR)$(PREFIX)/share/sockleak; fi
endef

# --- its tests: programs that link the archive; the others are Python (tests/tools/test_*.py) --------

TOOL_TESTS := $(patsubst tests/tools/%.c,$(BUILD)/tests/tools/%,$(wildcard tests/tools/test_*.c))

$(BUILD)/tests/tools/%.o: tests/tools/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(TOOLS_CPPFLAGS) -Itests/tools $(CFLAGS) -c -o $@ $<

# What `make bench` builds and runs: 10,000 frames of a binary of 50 MB within 3 s.
TOOL_BENCH := $(BUILD)/tests/tools/bench_symbols $(BUILD)/tests/tools/large_binary

$(BUILD)/tests/tools/large_binary: tests/tools/make_large.py
	@mkdir -p $(@D)
	$(call say,LARGE,$@)
	$(QUIET)CC="$(CC)" /usr/bin/python3 $< $@ 50

$(TOOL_TESTS) $(BUILD)/tests/tools/bench_symbols: $(BUILD)/tests/tools/%: $(BUILD)/tests/tools/%.o \
		$(BUILD)/tests/tools/ledger_image.o $(TOOLS_ARCHIVE)
	$(call say,LINK,$@)
	$(QUIET)$(CC) $(LDFLAGS) -o $@ $^ $(TOOLS_LIBS) -lcmocka

# The command with AddressSanitizer, the library and the examples without: sanitized, they could not be
# preloaded into programs that are not.
.PHONY: check-tools-address
check-tools-address: all
	$(QUIET)$(MAKE) --no-print-directory SANITIZE=address BUILD=$(BUILD)/address $(BUILD)/address/sockleak
	$(QUIET)cp $(BUILD)/libsockleak.so $(BUILD)/address/ && ln -sfn ../examples $(BUILD)/address/examples
	$(QUIET)BUILD=$(BUILD)/address tests/run --timeout 300 \
		$(foreach t,$(wildcard tests/tools/test_*.py),$(t:tests/%.py=%)=/usr/bin/python3\ $(t))

-include $(wildcard $(BUILD)/tests/tools/*.d) $(TOOLS_OBJECTS:.o=.d) $(TOOLS_PROFILE).d
