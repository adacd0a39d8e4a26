# aarch64, where there is no such machine: cross-compiled without a warning, and an example under
# qemu's emulation of one process. No part of `make check`; says what is missing, and fails then.
#
#     apt-get install gcc-aarch64-linux-gnu qemu-user-static debootstrap
#     tests/aarch64/make_root.sh /var/tmp/arm64
#     make check-aarch64 AARCH64_ROOT=/var/tmp/arm64

AARCH64_ROOT ?=
AARCH64_CC ?= aarch64-linux-gnu-gcc
AARCH64_BUILD ?= $(BUILD)-aarch64
AARCH64_MAKE = PKG_CONFIG_SYSROOT_DIR=$(AARCH64_ROOT) \
	PKG_CONFIG_LIBDIR=$(AARCH64_ROOT)/usr/lib/aarch64-linux-gnu/pkgconfig \
	$(MAKE) --no-print-directory ARCH=aarch64 CC="$(AARCH64_CC) --sysroot=$(AARCH64_ROOT)" \
	BUILD=$(AARCH64_BUILD)

.PHONY: check-aarch64 aarch64-built
check-aarch64: ## build for aarch64, run an example in emulation (AARCH64_ROOT=…)
	$(QUIET)command -v $(AARCH64_CC) >/dev/null || { echo "$(AARCH64_CC) is missing"; exit 1; }
	$(QUIET)test -n "$(AARCH64_ROOT)" && test -e "$(AARCH64_ROOT)/usr/lib/aarch64-linux-gnu/libunwind.so" || \
		{ echo "no arm64 system in AARCH64_ROOT: make one by tests/aarch64/make_root.sh"; exit 1; }
	$(QUIET)$(AARCH64_MAKE) aarch64-built
	$(QUIET)tests/run --logs $(AARCH64_BUILD)/logs "aarch64/emulated=/usr/bin/python3 \
		tests/aarch64/test_emulated.py $(AARCH64_BUILD) $(AARCH64_ROOT)"

# What runs there as here, and every test program.
aarch64-built: all $(UNIT_TESTS) $(PRELOAD_TESTS) $(TOOL_TESTS)
