check-leaks:
	sockleak run -- $(MAKE) check
