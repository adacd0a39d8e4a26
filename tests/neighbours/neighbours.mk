# Programs that share their process with others besides us: sanitizers, allocators, plugins, small
# stacks. Included by the Makefile. What a compiler cannot build is left out, and test_neighbours.py
# says so.

NEIGHBOURS_DIR := $(BUILD)/tests/neighbours
NEIGHBOURS_COMPILERS := gcc clang
NEIGHBOURS_SANITIZERS := address thread undefined
NEIGHBOURS_BUILT := $(foreach c,$(NEIGHBOURS_COMPILERS),$(foreach s,$(NEIGHBOURS_SANITIZERS),$(c)-$(s)))
NEIGHBOURS_PROGRAMS := $(addprefix $(NEIGHBOURS_DIR)/,$(NEIGHBOURS_BUILT) plain jemalloc tcmalloc_minimal \
	mimalloc odd exceptions deepbind.so test_stack)

neighbours_compiler = $(firstword $(subst -, ,$(notdir $1)))
neighbours_sanitizer = $(lastword $(subst -, ,$(notdir $1)))

$(NEIGHBOURS_BUILT:%=$(NEIGHBOURS_DIR)/%): tests/neighbours/neighbour.c
	@mkdir -p $(@D)
	$(call say,CC,$(notdir $@))
	$(QUIET)$(call neighbours_compiler,$@) $(CPPFLAGS) -g -O1 -std=gnu11 -pthread -fsanitize=$(call neighbours_sanitizer,$@) \
		-o $@ $< 2>$@.log || rm -f $@

$(NEIGHBOURS_DIR)/plain: tests/neighbours/neighbour.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) -g -O1 -std=gnu11 -pthread -o $@ $<

# Linked with the runtime library by its file: the packages for developers are not needed.
$(addprefix $(NEIGHBOURS_DIR)/,jemalloc tcmalloc_minimal mimalloc): $(NEIGHBOURS_DIR)/%: tests/neighbours/neighbour.c
	@mkdir -p $(@D)
	$(call say,CC,$(notdir $@))
	$(QUIET)library=$$(ls $$(dirname $$($(CC) -print-file-name=libm.so.6))/lib$*.so.? 2>/dev/null | head -n 1); \
		test -n "$$library" && $(CC) $(CPPFLAGS) -g -O1 -std=gnu11 -pthread -o $@ $< -Wl,--no-as-needed "$$library" \
		2>$@.log || rm -f $@

$(NEIGHBOURS_DIR)/odd $(NEIGHBOURS_DIR)/test_stack: $(NEIGHBOURS_DIR)/%: tests/neighbours/%.c \
		tests/preload/rig.c tests/preload/rig.h preload/base/sys.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) $(PRELOAD_TEST_CFLAGS) $(LDFLAGS) \
		-o $@ $< tests/preload/rig.c -Wl,-z,now -lcmocka -ldl -lpthread

$(NEIGHBOURS_DIR)/exceptions: tests/neighbours/exceptions.cc
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(QUIET)$(CXX) $(CPPFLAGS) -g -O1 -fnon-call-exceptions -pthread -o $@ $<

$(NEIGHBOURS_DIR)/deepbind.so: tests/neighbours/deepbind.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) -g -O1 -fPIC -shared -o $@ $<

check-built: $(NEIGHBOURS_PROGRAMS)
$(NEIGHBOURS_DIR)/test_stack: | $(FAULTS_DIR)/plugin.so
PRELOAD_TESTS += $(NEIGHBOURS_DIR)/test_stack
