# sockleak: `make` builds, `make check` tests, `make demo` shows. `make help` lists the rest.
#
# Switches: V=1 shows the commands, DEBUG=1 for gdb, SANITIZE=address|thread|undefined,
# COVERAGE=1, CC=clang, BUILD=directory.

VERSION := 0.1.0
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
BUILD ?= build
CC ?= cc
AWK ?= awk
ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)

# --- the library, layer by layer: each uses only those above it ----------------------------------

BASE := guard owner clock format process options output
LEDGER := backing ledger
TRACK := unwind_libunwind modules stacks tracker
REPORT := scratch snapshot names verdict text symbols report trigger signals
HOOKS := real create stream pass dup close process signal syscall

PRELOAD_SOURCES := $(BASE:%=preload/base/%.c) $(LEDGER:%=preload/ledger/%.c) \
	$(TRACK:%=preload/track/%.c) $(REPORT:%=preload/report/%.c) $(HOOKS:%=preload/hooks/%.c) \
	preload/hooks/vfork_$(ARCH).S

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
CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
LDFLAGS += -fsanitize=$(SANITIZE)
endif
ifeq ($(COVERAGE),1)
CFLAGS += -O0 --coverage
LDFLAGS += --coverage
endif

# In the watched process: hidden symbols, unwind tables for exceptions and cancellation through our
# frames, and no frame that a small signal stack could not hold.
PRELOAD_CFLAGS := -fPIC -fvisibility=hidden -fasynchronous-unwind-tables -fexceptions \
	-Wframe-larger-than=2560 -Ipreload

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

.PHONY: all
all: $(LIBRARY) examples ## build the library and the examples (default)

$(LIBRARY): $(PRELOAD_OBJECTS) $(BUILD)/libsockleak.map
	$(call say,LINK,$@)
	$(QUIET)$(CC) -shared -Wl,-soname,libsockleak.so -Wl,-z,now,-z,relro,-z,defs \
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
