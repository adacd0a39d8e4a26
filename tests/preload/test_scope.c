// What the library brings into the program: the functions of its one list, and nothing else. Above
// all not libunwind's _Unwind_* and backtrace, which would take over exception handling.
#include "rig.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const listed[] = {
#define REAL(need, result, name, parameters, arguments) #name,
#define REAL_VARIADIC(need, result, name, parameters, fixed, arguments) #name,
#define EXPORT_ONLY(name) #name,
#include "hooks/real.def"
};

enum {
    LISTED = sizeof listed / sizeof *listed
};

static void the_exports_are_the_list(void **state) {
    (void)state;
    char command[4200], name[256];
    bool seen[LISTED] = {false};
    snprintf(command, sizeof command,
             "env -u LD_PRELOAD nm -D --defined-only --format=just-symbols '%s'", rig_library());
    FILE *nm = popen(command, "r");
    assert_non_null(nm);
    int lines = 0;
    while (fgets(name, sizeof name, nm)) {
        name[strcspn(name, "@\n")] = '\0';
        int at = 0;
        while (at < LISTED && strcmp(listed[at], name) != 0)
            at++;
        if (at == LISTED)
            fail_msg("exported, and not in real.def: %s", name);
        else
            seen[at] = true;
        lines++;
    }
    if (pclose(nm) != 0 && lines == 0)
        skip(); // no nm here
    for (int i = 0; i < LISTED; i++) {
        if (!seen[i])
            print_error("in real.def, and not exported: %s\n", listed[i]);
        assert_true(seen[i]);
    }
}

static const char *file_of(const void *address) {
    Dl_info info;
    return address && dladdr(address, &info) ? info.dli_fname : "nowhere";
}

static void every_listed_function_is_ours_in_the_programs_scope(void **state) {
    (void)state;
    for (int i = 0; i < LISTED; i++)
        assert_string_equal(file_of(dlsym(RTLD_DEFAULT, listed[i])), rig_library());
}

// libunwind is loaded by the first socket.
static void libunwinds_symbols_stay_out_of_the_programs_scope(void **state) {
    (void)state;
    close(socket(AF_INET, SOCK_STREAM, 0));
    void *loaded = dlopen("libunwind.so.8", RTLD_NOW | RTLD_NOLOAD | RTLD_LOCAL);
    if (!loaded)
        skip(); // no libunwind here: nothing to be kept out
    assert_non_null(strstr(file_of(dlsym(RTLD_DEFAULT, "backtrace")), "libc.so"));
    assert_null(dlsym(RTLD_DEFAULT, "unw_backtrace"));
    assert_null(dlsym(RTLD_DEFAULT, "unw_step"));
    const char *const shared[] = {"_Unwind_RaiseException", "_Unwind_Resume", "_Unwind_Backtrace",
                                  "_Unwind_ForcedUnwind", "_Unwind_GetIP"};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        void *found = dlsym(RTLD_DEFAULT, shared[i]);
        assert_null(found ? strstr(file_of(found), "unwind") : NULL);
    }
    void *libgcc = dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (libgcc)
        for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
            assert_non_null(strstr(file_of(dlsym(RTLD_DEFAULT, shared[i])), "libgcc_s"));
    dlclose(loaded);
}

// The C++ runtime comes late, by dlopen, after libunwind; the dynamic loader says whom it binds to.
static const char thrower[] =
    "extern \"C\" int throw_and_catch(int n) {"
    "  try { if (n) throw n; } catch (int caught) { return caught; } return 0; }";

static const char program[] =
    "#include <dlfcn.h>\n#include <stdio.h>\n#include <sys/socket.h>\n#include <unistd.h>\n"
    "int main(int argc, char **argv) { (void)argc;\n"
    "  close(socket(AF_INET, SOCK_STREAM, 0));\n"
    "  void *library = dlopen(argv[1], RTLD_NOW); if (!library) return 1;\n"
    "  int (*f)(int) = (int (*)(int))dlsym(library, \"throw_and_catch\");\n"
    "  int caught = f(5); close(socket(AF_INET, SOCK_STREAM, 0));\n"
    "  printf(\"caught %d %d\\n\", caught, f(6)); return 0; }\n";

static void write_file(const char *dir, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void exceptions_of_a_late_cxx_library_bind_to_libgcc(void **state) {
    (void)state;
    char dir[] = "/tmp/sockleak-test-XXXXXX", command[1024];
    assert_non_null(mkdtemp(dir));
    write_file(dir, "thrower.cc", thrower);
    write_file(dir, "program.c", program);
    snprintf(command, sizeof command,
             "unset LD_PRELOAD; cd %s && c++ -shared -fPIC -o thrower.so thrower.cc 2>/dev/null && "
             "cc -o program program.c -ldl 2>/dev/null",
             dir);
    bool built = system(command) == 0;
    int status = -1;
    if (built) {
        snprintf(command, sizeof command,
                 "cd %s && LD_DEBUG=bindings LD_DEBUG_OUTPUT=bindings LD_PRELOAD='%s' ./program "
                 "./thrower.so > out && grep -q '^caught 5 6$' out && "
                 "grep -h '_Unwind_' bindings.* | grep -q libgcc_s && "
                 "! grep -h 'normal symbol .*\\(_Unwind_\\|backtrace\\)' bindings.* | "
                 "grep -v 'binding file [^ ]*libunwind' | grep 'to [^ ]*libunwind'",
                 dir, rig_library());
        status = system(command);
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    if (!built)
        skip(); // no C++ compiler here
    assert_int_equal(status, 0);
}

int main(int argc, char **argv) {
    rig_start(argc, argv, NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_exports_are_the_list),
        cmocka_unit_test(every_listed_function_is_ours_in_the_programs_scope),
        cmocka_unit_test(libunwinds_symbols_stay_out_of_the_programs_scope),
        cmocka_unit_test(exceptions_of_a_late_cxx_library_bind_to_libgcc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
