# The library once more, with system calls that can be made to fail (seam.c), and the program that is
# watched meanwhile. Included by the Makefile.

FAULTS_DIR := $(BUILD)/faults
FAULTS_LIBRARY := $(FAULTS_DIR)/libsockleak.so
FAULTS_OBJECTS := $(patsubst %,$(FAULTS_DIR)/%.o,$(PRELOAD_SOURCES) tests/faults/seam.c)
FAULTS_PROGRAMS := $(FAULTS_LIBRARY) $(FAULTS_DIR)/faulty $(FAULTS_DIR)/plugin.so $(FAULTS_DIR)/no_debug.so

# base/sys.h with its sys_call() under another name, and seam.c's declared in its place.
$(FAULTS_DIR)/include/base/sys.h: preload/base/sys.h tests/faults/faults.mk
	@mkdir -p $(@D)
	$(QUIET)sed -e 's/^static inline long sys_call(/static inline long sys_call_kernel(/' \
		-e '/^static inline int sys_fstat(/i long sys_call(long number, long a, long b, long c, long d, long e, long f);\n' \
		$< > $@

# The ledger, which grows by a page at first: few sockets see all that growth does.
$(FAULTS_DIR)/src/ledger.c: preload/ledger/ledger.c tests/faults/faults.mk
	@mkdir -p $(@D)
	$(QUIET)sed -e 's/GROWTH_MIN_BYTES = 64 << 10/GROWTH_MIN_BYTES = 4 << 10/' $< > $@
	$(QUIET)! cmp -s $< $@ || { echo '$<: its first step is not what $(lastword $^) looks for'; rm $@; exit 1; }

FAULTS_CFLAGS = -I$(FAULTS_DIR)/include $(filter-out $(LTO),$(PRELOAD_CFLAGS))

$(FAULTS_DIR)/preload/ledger/ledger.c.o: $(FAULTS_DIR)/src/ledger.c $(FAULTS_DIR)/include/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) $(FAULTS_CFLAGS) -c -o $@ $<

$(FAULTS_DIR)/preload/%.c.o: preload/%.c $(FAULTS_DIR)/include/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) $(FAULTS_CFLAGS) -c -o $@ $<

$(FAULTS_DIR)/tests/%.c.o: tests/%.c $(FAULTS_DIR)/include/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) $(FAULTS_CFLAGS) -c -o $@ $<

$(FAULTS_DIR)/preload/%.S.o: preload/%.S
	@mkdir -p $(@D)
	$(QUIET)$(CC) -c -o $@ $<

$(FAULTS_LIBRARY): $(FAULTS_OBJECTS) $(BUILD)/libsockleak.map
	$(call say,LINK,$@)
	$(QUIET)$(CC) -shared -Wl,-soname,libsockleak.so -Wl,-z,now,-z,relro,-z,defs \
		-Wl,--version-script=$(BUILD)/libsockleak.map $(LDFLAGS) -o $@ $(FAULTS_OBJECTS) -ldl -lpthread

$(FAULTS_DIR)/faulty: tests/faults/faulty.c tests/preload/rig.c tests/preload/rig.h preload/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) $(PRELOAD_TEST_CFLAGS) $(LDFLAGS) \
		-o $@ tests/faults/faulty.c tests/preload/rig.c -lcmocka -ldl -lpthread

$(FAULTS_DIR)/%.so: tests/faults/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) -fPIC -shared -o $@ $<

check-built: $(FAULTS_PROGRAMS)

.PHONY: faults
faults: all $(FAULTS_PROGRAMS) ## make every system call of ours fail in turn, all of them
	$(QUIET)BUILD=$(BUILD) FAULTS=all JOBS=$(JOBS) /usr/bin/python3 tests/faults/test_faults.py

-include $(FAULTS_OBJECTS:.o=.d)

$(BUILD)/tests/faults/test_limits: tests/faults/test_limits.c tests/preload/rig.c tests/preload/rig.h \
		preload/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) $(PRELOAD_TEST_CFLAGS) $(LDFLAGS) \
		-o $@ $< tests/preload/rig.c -lcmocka -ldl -lpthread

PRELOAD_TESTS += $(BUILD)/tests/faults/test_limits
