# The bench: see tests/bench/bench.py. `make bench` takes twenty minutes, QUICK=1 less than two.

BENCH := $(BUILD)/tests/bench/workload $(BUILD)/tests/bench/load $(BUILD)/tests/bench/plugin.so
# What it compares with, and the servers that it runs.
BENCH_PACKAGES := nginx:nginx-light haproxy:haproxy redis-server:redis-server \
	redis-benchmark:redis-tools memcached:memcached node:nodejs /usr/bin/python3:python3 wrk:wrk \
	valgrind:valgrind strace:strace heaptrack:heaptrack bpftrace:bpftrace unshare:util-linux ip:iproute2

.PHONY: bench
bench: ## measure every budget beside the bare program and other tools (20 minutes; QUICK=1: 2)
	@$(MAKE) --no-print-directory deps PACKAGES="$(BUILD_PACKAGES) $(BENCH_PACKAGES)"
	@$(MAKE) --no-print-directory bench-built

.PHONY: bench-built
bench-built: all $(BENCH) $(TOOL_BENCH)
	$(QUIET)BUILD=$(BUILD) QUICK=$(QUICK) /usr/bin/python3 tests/bench/bench.py $(PARTS)

$(BUILD)/tests/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) -pthread $(LDFLAGS) -o $@ $< -ldl

$(BUILD)/tests/bench/%.so: tests/bench/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -shared $(LDFLAGS) -o $@ $<
