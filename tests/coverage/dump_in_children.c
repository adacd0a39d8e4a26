// Linked into the unit tests where they are built with COVERAGE=1: what their forked children ran
// counts, too, although they leave by _exit.
void __gcov_dump(void);

// ld --wrap
void __real__exit(int status) __attribute__((noreturn));
void __wrap__exit(int status) __attribute__((noreturn));
void __wrap__exit(int status) {
    __gcov_dump();
    __real__exit(status);
}
