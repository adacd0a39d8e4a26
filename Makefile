# sockleak: `make` builds, `make check` tests, `make demo` shows. `make help` lists the rest.
#
# Switches: V=1 shows the commands, DEBUG=1 is for gdb, SANITIZE=address|thread|undefined and
# COVERAGE=1 instrument (each in a build directory of its own), CC=clang, BUILD=directory.

VERSION := 0.1.0
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
BUILD ?= build$(if $(SANITIZE),-$(SANITIZE))$(if $(filter 1,$(COVERAGE)),-coverage)$(if $(filter 1,$(DEBUG)),-debug)
CC ?= cc
AWK ?= awk
ARCH := $(shell uname -m)
.DEFAULT_GOAL := all

# --- the library, layer by layer: each uses only those above it ----------------------------------

BASE := guard owner clock format process apart program notice options output
LEDGER := backing ledger cut shrink fork sites records
TRACK := imports frame_rules_$(ARCH) fast_unwind unwind_libunwind modules walks stacks addresses endings unasked births told numbers tracker without_file programs
REPORT := signals trigger exhaustion interrupted scratch facts snapshot names verdict cause teardown text threads symbols findings frames writing report
HOOKS := real create stream pass dup close process limits exec signal syscall

# In the order of linking: what only a report needs stands last, so that its pages are not mapped with
# what every process uses.
PRELOAD_SOURCES := $(BASE:%=preload/base/%.c) $(LEDGER:%=preload/ledger/%.c) \
	$(TRACK:%=preload/track/%.c) $(HOOKS:%=preload/hooks/%.c) preload/hooks/vfork_$(ARCH).S \
	$(REPORT:%=preload/report/%.c)

# --- flags ---------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wpointer-arith -Wundef -Wvla -Wwrite-strings \
	-Wstrict-prototypes -Wmissing-prototypes -Wimplicit-fallthrough -Werror
CFLAGS ?= -O2
CFLAGS += -g -std=gnu11 -fno-common $(WARNINGS) -MMD -MP
CPPFLAGS += -D_GNU_SOURCE -DSOCKLEAK_VERSION='"$(VERSION)"'
ifeq ($(DEBUG),1)
CFLAGS += -O0 -ggdb3
endif
ifneq ($(SANITIZE),)
CPPFLAGS += -DSOCKLEAK_SANITIZED
CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
# gcc warns that ThreadSanitizer does not understand fences; ours guard copies that are checked anyway.
CFLAGS += $(if $(filter thread,$(SANITIZE)),$(if $(findstring clang,$(CC)),,-Wno-tsan))
LDFLAGS += -fsanitize=$(SANITIZE)
endif
ifeq ($(COVERAGE),1)
CFLAGS += -O0 --coverage
LDFLAGS += --coverage
endif

# In the watched process: hidden symbols, unwind tables for exceptions and cancellation through our
# frames, and no frame that a small signal stack could not hold.
PRELOAD_CFLAGS := -fPIC -fvisibility=hidden -fasynchronous-unwind-tables -fexceptions \
	$(if $(SANITIZE),,-Wframe-larger-than=2560) -Ipreload
# What runs once a process, or in a report, is made small: most processes have it mapped for nothing.
SMALL := $(BASE:%=base/%) ledger/backing ledger/ledger ledger/cut ledger/shrink ledger/fork track/imports track/frame_rules_$(ARCH) \
	track/unwind_libunwind track/modules track/without_file track/programs hooks/real hooks/exec hooks/process hooks/limits hooks/signal \
	$(REPORT:%=report/%)
# What runs in each socket's life is packed: it costs the cache lines that it touches (base/compiler.h).
PACKED := -falign-functions=1 -falign-loops=1 $(if $(findstring clang,$(CC)),,-falign-jumps=1)
PRELOAD_CFLAGS += $(PACKED)
# And compiled as one, so that its functions become part of each other: calls that no branch predictor
# has seen for long are dear. The objects keep code of their own too, for the unit tests. Not with clang,
# which would need another linker for it.
LTO := $(if $(DEBUG)$(SANITIZE)$(COVERAGE)$(findstring clang,$(CC)),,-flto -ffat-lto-objects)
PRELOAD_CFLAGS += $(LTO)
ifeq ($(filter 1,$(DEBUG) $(COVERAGE)),)
$(SMALL:%=$(BUILD)/preload/%.c.o): PRELOAD_CFLAGS += -Os
endif

ifeq ($(V),1)
QUIET :=
else
QUIET := @
endif
say = $(if $(QUIET),@printf '  %-5s %s\n' $(1) $(2))

# --- what is built -------------------------------------------------------------------------------

LIBRARY := $(BUILD)/libsockleak.so
PRELOAD_OBJECTS := $(patsubst %,$(BUILD)/%.o,$(PRELOAD_SOURCES))
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c))

-include tools/tools.mk
-include tests/unit.mk tests/preload.mk tests/stress.mk tests/fuzz.mk tests/suites.mk
-include tests/bench/bench.mk tests/ends/ends.mk tests/faults/faults.mk tests/neighbours/neighbours.mk \
	tests/coverage/coverage.mk tests/aarch64/aarch64.mk

.PHONY: all
all: $(LIBRARY) $(TOOLS) examples ## build everything but the tests (default)

# noseparate-code: two segments to map instead of four, at the start of each program.
$(LIBRARY): $(PRELOAD_OBJECTS) $(BUILD)/libsockleak.map
	$(call say,LINK,$@)
	$(QUIET)$(CC) -shared $(if $(LTO),$(CFLAGS) $(PRELOAD_CFLAGS) -flto-partition=none) \
		-Wl,-soname,libsockleak.so -Wl,-z,now,-z,relro,-z,defs,-z,noseparate-code \
		-Wl,--version-script=$(BUILD)/libsockleak.map $(LDFLAGS) -o $@ $(PRELOAD_OBJECTS) -ldl -lpthread

# The exports, from the one list of interposed functions.
$(BUILD)/libsockleak.map: preload/hooks/real.def
	@mkdir -p $(@D)
	$(QUIET){ echo '{ global:'; printf '%s\n' \
		'#define REAL(need, result, name, parameters, arguments) name;' \
		'#define REAL_VARIADIC(need, result, name, parameters, fixed, arguments) name;' \
		'#define EXPORT_ONLY(name) name;' '#include "preload/hooks/real.def"' \
		| $(CC) -E -P -I. - ; echo 'local: *; };'; } > $@

$(BUILD)/preload/%.c.o: preload/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) $(PRELOAD_CFLAGS) -c -o $@ $<

$(BUILD)/preload/%.S.o: preload/%.S
	@mkdir -p $(@D)
	$(call say,AS,$<)
	$(QUIET)$(CC) -c -o $@ $<

.PHONY: examples
examples: $(EXAMPLES) ## build the leaking and the clean example programs

$(BUILD)/examples/%: examples/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) -O1 -pthread $(LDFLAGS) -o $@ $<

-include $(PRELOAD_OBJECTS:.o=.d) $(EXAMPLES:=.d)

# --- what it needs -------------------------------------------------------------------------------

BUILD_PACKAGES := build-essential pkg-config libunwind-dev libcmocka-dev libdw-dev libelf-dev \
	libmnl-dev libjansson-dev libprotobuf-c-dev protobuf-c-compiler zlib1g-dev libiberty-dev
# What the tests run, as command:package, or as a package where there is no command; a command that is
# there already is good enough. golang-go is for `go tool pprof`, clang and its runtime for fuzzing.
TEST_PACKAGES := curl:curl /usr/bin/python3:python3 nginx:nginx-light redis-server:redis-server \
	redis-cli:redis-tools node:nodejs javac:default-jdk-headless wrk:wrk strace:strace \
	valgrind:valgrind gdb:gdb ip:iproute2 tcpdump:tcpdump unshare:util-linux setpriv:util-linux mkfs.btrfs:btrfs-progs git:git \
	groff:groff-base man:man-db go:golang-go cmake:cmake meson:meson pidof:sysvinit-utils \
	bash-completion python3-jsonschema python3-junitparser python3-pytest python3-yaml \
	clang:clang libclang-rt-dev \
	libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0 libfaketime
# What `make suites` needs besides.
SUITE_PACKAGES := libpython3.11-testsuite libglib2.0-tests haproxy:haproxy memcached:memcached \
	openssl:openssl socat:socat ncat:ncat rsync:rsync sshd:openssh-server ssh:openssh-client \
	iperf3:iperf3 stress-ng:stress-ng
# What `make lint` and `make format` need.
LINT_PACKAGES := clang-format:clang-format clang-tidy:clang-tidy cppcheck:cppcheck
PACKAGES = $(BUILD_PACKAGES) $(TEST_PACKAGES)

.PHONY: deps
deps: ## install what the build and the tests need (Debian, Ubuntu)
	@missing=; \
	for wanted in $(PACKAGES); do \
		case $$wanted in \
		*:*) PATH=$$PATH:/usr/sbin:/sbin command -v $${wanted%%:*} >/dev/null && continue ;; \
		*) dpkg-query -W -f '$${db:Status-Status}' $$wanted 2>/dev/null | grep -qx installed && continue ;; \
		esac; \
		missing="$$missing $${wanted##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "make deps: this is no Debian or Ubuntu; install by your package manager what these are there:"; \
		echo " $$missing"; exit 1; \
	fi; \
	[ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; \
	echo "installing$$missing"; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null

# --- what it does --------------------------------------------------------------------------------

.PHONY: demo
demo: deps ## a leaking server, real clients, and the report
	@$(MAKE) --no-print-directory $(LIBRARY) examples
	@BUILD=$(BUILD) examples/demo.sh

E2E_TESTS := $(UNIT_SCRIPTS) $(wildcard tests/e2e/test_*.py) $(wildcard tests/tools/test_*.py) \
	$(wildcard tests/ends/test_*.py tests/faults/test_*.py tests/neighbours/test_*.py) \
	$(SUITE_TESTS) $(STRESS_SCRIPTS)
# In this order: what fails in a unit explains what fails further out.
TESTS := $(foreach t,$(UNIT_TESTS) $(PRELOAD_TESTS) $(TOOL_TESTS),$(t:$(BUILD)/tests/%=%)=$(t)) \
	$(FUZZ_TESTS) \
	$(foreach t,$(E2E_TESTS),$(t:tests/%.py=%)=/usr/bin/python3\ $(t))

# As many compilers, and then as many tests, run at once. More than four tests would but wait for those
# that run alone: the ones that hold a time against a limit of milliseconds, or against what tcpdump
# and strace saw (a neighbour takes such time), and those that look at the whole machine's sockets.
JOBS ?= $(shell n=$$(nproc) && echo $$((n < 4 ? n : 4)) || echo 1)
ALONE := unit/test_facts unit/test_ledger_fork unit/test_output preload/test_grace \
	tools/test_run tools/test_sites tools/test_teardown_wire tools/test_threads tools/test_watch \
	tools/test_scan e2e/test_many

# Below `make -j` it shares the jobs that there are.
.PHONY: check
check: deps ## install what is missing, build, and run all tests
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) check-built

.PHONY: check-built
check-built: all $(UNIT_TESTS) $(PRELOAD_TESTS) $(TOOL_TESTS) $(STRESS) $(SUITE_WITNESS) fuzz-built
	$(QUIET)BUILD=$(BUILD) tests/run --jobs $(JOBS) --alone "$(ALONE)" --timeout 300 $(TESTS)

C_FILES = $(shell git ls-files '*.c' '*.h')

.PHONY: lint-deps
lint-deps: ## install what `make lint` and `make format` need
	@$(MAKE) --no-print-directory deps PACKAGES="$(LINT_PACKAGES)"

.PHONY: lint
lint: lint-deps ## clang-format, clang-tidy and cppcheck over all sources
	$(QUIET)clang-format --dry-run -Werror $(C_FILES)
	$(QUIET)cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 \
		--enable=warning,performance,portability -D_GNU_SOURCE -D__x86_64__ -Ipreload \
		--suppress=missingIncludeSystem preload tools tests examples
	$(QUIET)clang-tidy --quiet $(filter %.c,$(PRELOAD_SOURCES)) -- $(CPPFLAGS) -std=gnu11 -Ipreload

.PHONY: format
format: lint-deps ## put all C sources in the house format
	$(QUIET)clang-format -i $(C_FILES)

.PHONY: install
install: $(LIBRARY) $(TOOLS) ## install below PREFIX (/usr/local), DESTDIR before it
	install -d $(DESTDIR)$(LIBDIR)
	install -m 755 $(LIBRARY) $(DESTDIR)$(LIBDIR)/libsockleak.so
	$(INSTALL_TOOLS)

.PHONY: uninstall
uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(LIBDIR)/libsockleak.so
	$(UNINSTALL_TOOLS)

.PHONY: clean
clean: ## remove what was built
	rm -rf build build-*

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
