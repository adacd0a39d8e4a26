// Backtraces in a program that changes under them: libraries come, go and are replaced at the same
// addresses, threads hold locks when it forks, and it uses libunwind itself. The libraries are
// built here, by cc.
#include "base/sys.h"
#include "ledger_view.h"
#include "rig.h"
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ROUNDS = 4,
    UNLOADS = 300,
    GROWTH_MAX_KB = 4096, // of UNLOADS caches of 256 KiB and more, had they stayed
    THREADS = 4,
    TURNS = 20000
};

SITE_RANGE(outer);

static const char *directory(void) {
    return getenv("TEST_UNWIND_DIRECTORY");
}

static const char *in_directory(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", directory(), name);
    return path;
}

typedef int plug_function(void);

// Opens a socket from this program's code, in `plug` if there is one.
SITE(outer) static int open_socket(plug_function *plug) {
    int fd = plug ? plug() : socket(AF_INET, SOCK_STREAM, 0);
    USE(fd);
    return fd;
}

// Is the stack that of a socket opened by `plug`, whole as far as out of here?
static bool is_stack_of(uint32_t id, const char *plug) {
    for (unsigned i = 0; i < 4; i++) {
        uintptr_t frame = view_frame(id, i);
        Dl_info info;
        if (IN_SITE(outer, frame))
            return i == 2;
        if (!dladdr((void *)frame, &info) || strcmp(info.dli_fname, plug) != 0)
            return false;
    }
    return false;
}

// Loads a library, opens a socket from it, and unloads it. Returns the socket's stack; *at is where
// the library was.
static uint32_t use_plug(const char *name, void **at) {
    const char *path = in_directory(name);
    void *library = dlopen(path, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    plug_function *plug = (plug_function *)dlsym(library, "plug");
    *at = (void *)plug;
    int fd = open_socket(plug);
    const struct ledger_record *record = view_record(fd);
    uint32_t stack = record ? record->birth_stack : 0;
    if (!stack || !is_stack_of(stack, path))
        printf("a wrong stack in %s\n", name);
    close(fd);
    dlclose(library);
    return stack;
}

static int scenario_replaced(void) {
    uint32_t first[2] = {0};
    void *place = NULL;
    for (int round = 0; round < ROUNDS; round++)
        for (int which = 0; which < 2; which++) {
            void *at;
            uint32_t stack = use_plug(which ? "big.so" : "small.so", &at);
            if (!place)
                place = at;
            if (at != place)
                return RIG_SKIPPED; // the loader did not use the place again
            if (round == 0)
                first[which] = stack;
            else if (first[which] != stack)
                printf("the same line is another stack\n");
        }
    if (first[0] == first[1])
        printf("two libraries share a stack\n");
    return 0;
}

static long pss_kb(void) {
    FILE *smaps = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    long kb = -1;
    while (smaps && fgets(line, sizeof line, smaps))
        sscanf(line, "Pss: %ld kB", &kb);
    if (smaps)
        fclose(smaps);
    return kb;
}

static int scenario_growth(void) {
    void *at;
    use_plug("small.so", &at);
    long before = pss_kb();
    uint64_t stacks = view_ledger()->regions[LEDGER_STACKS].used;
    for (int i = 0; i < UNLOADS; i++) {
        use_plug("small.so", &at);
        close(open_socket(NULL));
    }
    // The loop's own two places are new in its first turn.
    printf("%s %s\n", pss_kb() - before < GROWTH_MAX_KB ? "bounded" : "growing",
           view_ledger()->regions[LEDGER_STACKS].used <= stacks + 2 ? "few" : "many");
    return 0;
}

static int scenario_moved_headers(void) {
    void *at;
    use_plug("moved.so", &at);
    return 0;
}

static int scenario_rebuilt(void) {
    void *at, *place;
    uint32_t small = use_plug("rebuilt.so", &place);
    char from[512];
    snprintf(from, sizeof from, "%s", in_directory("big.so"));
    if (rename(from, in_directory("rebuilt.so")) != 0)
        return 1;
    uint32_t big = use_plug("rebuilt.so", &at);
    printf("%s\n", at != place ? "elsewhere" : small != big ? "two" : "one");
    return 0;
}

static int fds_open(void) {
    DIR *fds = opendir("/proc/self/fd");
    int count = 0;
    while (fds && readdir(fds))
        count++;
    if (fds)
        closedir(fds);
    return count;
}

static int scenario_no_eh_frame(void) {
    typedef int call_function(plug_function *);
    void *library = dlopen(in_directory("noeh.so"), RTLD_NOW);
    call_function *call = library ? (call_function *)dlsym(library, "call") : NULL;
    plug_function *plug =
        (plug_function *)dlsym(dlopen(in_directory("small.so"), RTLD_NOW), "plug");
    for (int i = 0; call && i < 5; i++) {
        int fd = call(plug);
        printf("%d ", fd);
        close(fd);
    }
    printf("of %d\n", fds_open());
    return 0;
}

static int scenario_no_libunwind(void) {
    close(open_socket(NULL));
    const char *message = dlerror();
    printf("%s\n", message ? message : "no message");
    return 0;
}

// --- forks --------------------------------------------------------------------------------------

static int held; // 1: the other thread has the lock
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int (*lock)(pthread_mutex_t *), (*unlock)(pthread_mutex_t *);

static int hold_for_ever(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)info, (void)size, (void)unused;
    __atomic_store_n(&held, 1, __ATOMIC_RELEASE);
    while (held)
        pause();
    return 0;
}

static void *hold_the_loaders_lock(void *unused) {
    dl_iterate_phdr(hold_for_ever, unused);
    return NULL;
}

static void *hold_libunwinds_lock(void *unused) {
    lock(&mutex);
    hold_for_ever(NULL, 0, NULL);
    return unused;
}

static void fork_while(void *(*holds)(void *), int (*child)(void)) {
    pthread_t thread;
    pthread_create(&thread, NULL, holds, NULL);
    while (!__atomic_load_n(&held, __ATOMIC_ACQUIRE))
        sched_yield();
    pid_t pid = fork();
    if (pid == 0) {
        alarm(3);
        _exit(child());
    }
    int status;
    waitpid(pid, &status, 0);
    printf("%s\n", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "ended" : "hung");
    fflush(stdout);
    _exit(0); // the loader's lock is held for good
}

// From a function that libunwind has not seen yet.
static int whole_stack_in_child(void) {
    int fd = open_socket(NULL);
    return view_record(fd) && view_stack(view_record(fd)->birth_stack)->flags == 0 ? 0 : 1;
}

static int scenario_fork_loader(void) {
    close(socket(AF_INET, SOCK_STREAM, 0)); // loads libunwind
    fork_while(hold_the_loaders_lock, whole_stack_in_child);
    return 0;
}

// What libunwind calls in a function's place, read from its import table.
static void *import_of(const char *name) {
    void *library = dlopen("libunwind.so.8", RTLD_NOW | RTLD_NOLOAD);
    struct link_map *map = NULL;
    if (!library || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0)
        return NULL;
    const char *strings = NULL;
    const ElfW(Sym) *symbols = NULL;
    const ElfW(Rela) * tables[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        if (d->d_tag == DT_STRTAB)
            strings = (const char *)d->d_un.d_ptr;
        if (d->d_tag == DT_SYMTAB)
            symbols = (const ElfW(Sym) *)d->d_un.d_ptr;
        if (d->d_tag == DT_JMPREL || d->d_tag == DT_RELA)
            tables[d->d_tag == DT_RELA] = (const ElfW(Rela) *)d->d_un.d_ptr;
        if (d->d_tag == DT_PLTRELSZ || d->d_tag == DT_RELASZ)
            sizes[d->d_tag == DT_RELASZ] = d->d_un.d_val / sizeof(ElfW(Rela));
    }
    for (int t = 0; t < 2; t++)
        for (size_t i = 0; i < sizes[t]; i++)
            if (strcmp(strings + symbols[ELF64_R_SYM(tables[t][i].r_info)].st_name, name) == 0)
                return *(void **)(map->l_addr + tables[t][i].r_offset);
    return NULL;
}

static int find_lock(void) {
    close(open_socket(NULL)); // loads libunwind
    lock = (int (*)(pthread_mutex_t *))import_of("pthread_mutex_lock");
    unlock = (int (*)(pthread_mutex_t *))import_of("pthread_mutex_unlock");
    return lock && unlock ? 0 : RIG_SKIPPED;
}

static int lock_in_child(void) {
    return lock(&mutex) || unlock(&mutex) || lock(&mutex) || unlock(&mutex);
}

static int scenario_fork_lock(void) {
    if (find_lock() != 0)
        return RIG_SKIPPED;
    fork_while(hold_libunwinds_lock, lock_in_child);
    return 0;
}

static volatile long counter;

static void *count_up(void *unused) {
    for (int i = 0; i < TURNS; i++) {
        lock(&mutex);
        long was = counter;
        if (i % 64 == 0)
            sched_yield(); // lets the others come and wait
        counter = was + 1;
        unlock(&mutex);
    }
    return unused;
}

static int contend(void) {
    pthread_t threads[THREADS];
    counter = 0;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, count_up, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return counter == (long)THREADS * TURNS ? 0 : 1;
}

static int scenario_contended(void) {
    if (find_lock() != 0)
        return RIG_SKIPPED;
    int result = contend();
    pid_t pid = fork();
    if (pid == 0)
        _exit(contend());
    int status;
    waitpid(pid, &status, 0);
    printf("%d %d\n", result, status);
    return 0;
}

// --- the claims ---------------------------------------------------------------------------------

static struct rig_result result;

static void assert_says(const char *scenario, const char *expected) {
    rig_run(&result, scenario, PRELOADED, NULL);
    if (WIFEXITED(result.status) && WEXITSTATUS(result.status) == RIG_SKIPPED)
        skip();
    assert_string_equal(result.out, expected);
    assert_int_equal(result.status, 0);
}

static void a_library_at_anothers_place_has_stacks_of_its_own_and_keeps_them(void **state) {
    (void)state;
    assert_says("replaced", "");
}

static void a_loop_of_loading_and_unloading_adds_no_memory_and_no_stacks(void **state) {
    (void)state;
    assert_says("growth", "bounded few\n");
}

static void a_library_with_its_program_headers_at_the_end_is_looked_at_with_care(void **state) {
    (void)state;
    assert_says("moved_headers", "");
}

static void a_library_that_was_built_anew_is_another(void **state) {
    (void)state;
    assert_says("rebuilt", "two\n");
}

static void a_library_without_eh_frame_costs_no_descriptor(void **state) {
    (void)state;
    rig_assert_same_as_bare("no_eh_frame", NULL, NULL);
}

static void a_libunwind_that_cannot_be_loaded_leaves_no_message(void **state) {
    (void)state;
    setenv("LD_LIBRARY_PATH", in_directory("broken"), 1);
    rig_run(&result, "no_libunwind", PRELOADED, NULL);
    unsetenv("LD_LIBRARY_PATH");
    assert_string_equal(result.out, "no message\n");
}

static void a_child_of_a_fork_under_the_loaders_lock_captures_stacks(void **state) {
    (void)state;
    assert_says("fork_loader", "ended\n");
}

static void a_child_of_a_fork_under_libunwinds_lock_can_lock_it(void **state) {
    (void)state;
    assert_says("fork_lock", "ended\n");
}

static void libunwinds_lock_excludes_also_after_a_fork(void **state) {
    (void)state;
    assert_says("contended", "0 0\n");
}

// `first`: it uses libunwind before its first socket, and has a pipe.
static void assert_unwinds_as_bare(const char *first) {
    static struct rig_result bare;
    char path[512];
    snprintf(path, sizeof path, "%s", in_directory("unwinds"));
    if (access(path, X_OK) != 0)
        skip(); // libunwind's headers are missing
    char *argv[] = {path, (char *)(uintptr_t)first, NULL};
    rig_command(&bare, argv, BARE, NULL);
    rig_command(&result, argv, PRELOADED, NULL);
    assert_non_null(strstr(bare.out, "a_function_of_the_program"));
    assert_string_equal(result.out, bare.out);
    assert_int_equal(result.status, bare.status);
}

static void a_program_that_uses_libunwind_sees_what_it_sees_bare(void **state) {
    (void)state;
    assert_unwinds_as_bare(NULL);
}

static void a_program_that_used_libunwind_before_us_sees_what_it_sees_bare(void **state) {
    (void)state;
    assert_unwinds_as_bare("first");
}

// --- what is built for them ---------------------------------------------------------------------

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(in_directory(name), "w");
    fputs(text, file);
    fclose(file);
}

static int compile(const char *arguments) {
    char command[2048];
    snprintf(command, sizeof command, "cd %s && cc -O1 -fomit-frame-pointer %s", directory(),
             arguments);
    return system(command);
}

static bool build(void) {
    // The same code at the same addresses, but for the size of plug's frame.
    write_file("plug.c", "#include <sys/socket.h>\n"
                         "__attribute__((noinline)) int inner(void) {\n"
                         "    int fd = socket(AF_INET, SOCK_STREAM, 0);\n"
                         "    __asm__ volatile(\"\" : \"+r\"(fd));\n"
                         "    return fd;\n"
                         "}\n"
                         "int plug(void) {\n"
                         "    char frame[FRAME];\n"
                         "    __asm__ volatile(\"\" : : \"r\"(frame) : \"memory\");\n"
                         "    int fd = inner();\n"
                         "    __asm__ volatile(\"\" : \"+r\"(fd) : \"r\"(frame) : \"memory\");\n"
                         "    return fd;\n"
                         "}\n");
    write_file("noeh.c", "int call(int (*function)(void)) {\n"
                         "    int fd = function();\n"
                         "    __asm__ volatile(\"\" : \"+r\"(fd));\n"
                         "    return fd;\n"
                         "}\n");
    write_file("unwinds.c",
               "#define UNW_LOCAL_ONLY\n"
               "#include <dirent.h>\n#include <libunwind.h>\n#include <stdio.h>\n"
               "#include <sys/socket.h>\n#include <unistd.h>\n"
               "static int fds(void) {\n"
               "    DIR *d = opendir(\"/proc/self/fd\"); int n = 0;\n"
               "    while (readdir(d)) n++;\n"
               "    closedir(d); return n;\n"
               "}\n"
               "static __attribute__((noinline)) void a_function_of_the_program(void) {\n"
               "    unw_context_t context; unw_cursor_t cursor; char name[200]; unw_word_t at;\n"
               "    unw_getcontext(&context);\n"
               "    unw_init_local(&cursor, &context);\n"
               "    do {\n"
               "        int r = unw_get_proc_name(&cursor, name, sizeof name, &at);\n"
               "        printf(\"%s %d\\n\", r ? \"?\" : name, r);\n"
               "    } while (unw_step(&cursor) > 0);\n"
               "}\n"
               "int main(int argc, char **argv) {\n"
               "    (void)argv;\n"
               "    if (argc > 1) a_function_of_the_program();\n"
               "    close(socket(AF_INET, SOCK_STREAM, 0));\n"
               "    a_function_of_the_program();\n"
               "    int before = fds();\n"
               "    for (int i = 0; i < 3; i++) a_function_of_the_program();\n"
               "    close(socket(AF_INET, SOCK_STREAM, 0));\n"
               "    printf(\"%d more\\n\", fds() - before);\n"
               "    return 0;\n"
               "}\n");
    const char *plug = "-fPIC -shared -fno-stack-protector -fcf-protection=none"; // x86-64's, only
#if !defined(__x86_64__)
    plug = "-fPIC -shared -fno-stack-protector";
#endif
    char arguments[1024];
    snprintf(arguments, sizeof arguments,
             "%s -DFRAME=400 -o small.so plug.c && cc -O1 -fomit-frame-pointer %s -DFRAME=4000 "
             "-o big.so plug.c && cp small.so rebuilt.so && cp small.so moved.so",
             plug, plug);
    if (compile(arguments) != 0)
        return false;
    snprintf(arguments, sizeof arguments,
             "%s -fno-asynchronous-unwind-tables -fno-unwind-tables -o noeh.so noeh.c", plug);
    if (compile(arguments) != 0)
        return false;
    compile("-o unwinds unwinds.c -lunwind 2>/dev/null"); // may fail: see the claim
    mkdir(in_directory("broken"), 0700);
    write_file("broken/libunwind.so.8", "");
    return true;
}

// The program headers go to the end of the file, far behind what is mapped.
static void move_headers(const char *path) {
    ElfW(Ehdr) header;
    ElfW(Phdr) segments[16];
    off_t end = 0x100000;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &header, sizeof header, 0), sizeof header);
    assert_in_range(header.e_phnum, 1, 16);
    size_t bytes = header.e_phnum * sizeof *segments;
    assert_int_equal(pread(fd, segments, bytes, (off_t)header.e_phoff), bytes);
    assert_int_equal(pwrite(fd, segments, bytes, end), bytes);
    header.e_phoff = (ElfW(Off))end;
    assert_int_equal(pwrite(fd, &header, sizeof header, 0), sizeof header);
    close(fd);
}

int main(int argc, char **argv) {
    static const struct rig_scenario scenarios[] = {
        {"replaced", scenario_replaced},       {"growth", scenario_growth},
        {"rebuilt", scenario_rebuilt},         {"moved_headers", scenario_moved_headers},
        {"no_eh_frame", scenario_no_eh_frame}, {"no_libunwind", scenario_no_libunwind},
        {"fork_loader", scenario_fork_loader}, {"fork_lock", scenario_fork_lock},
        {"contended", scenario_contended},
    };
    rig_start(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios);
    char template[] = "/tmp/sockleak-unwind-XXXXXX";
    if (!mkdtemp(template))
        return 1;
    setenv("TEST_UNWIND_DIRECTORY", template, 1);
    int status = RIG_SKIPPED;
    if (build()) {
        move_headers(in_directory("moved.so"));
        const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_library_at_anothers_place_has_stacks_of_its_own_and_keeps_them),
            cmocka_unit_test(a_loop_of_loading_and_unloading_adds_no_memory_and_no_stacks),
            cmocka_unit_test(a_library_with_its_program_headers_at_the_end_is_looked_at_with_care),
            cmocka_unit_test(a_library_that_was_built_anew_is_another),
            cmocka_unit_test(a_library_without_eh_frame_costs_no_descriptor),
            cmocka_unit_test(a_libunwind_that_cannot_be_loaded_leaves_no_message),
            cmocka_unit_test(a_child_of_a_fork_under_the_loaders_lock_captures_stacks),
            cmocka_unit_test(a_child_of_a_fork_under_libunwinds_lock_can_lock_it),
            cmocka_unit_test(libunwinds_lock_excludes_also_after_a_fork),
            cmocka_unit_test(a_program_that_uses_libunwind_sees_what_it_sees_bare),
            cmocka_unit_test(a_program_that_used_libunwind_before_us_sees_what_it_sees_bare),
        };
        status = cmocka_run_group_tests(tests, NULL, NULL);
    } else {
        puts("skipped: cc cannot build the libraries of this test");
    }
    char command[600];
    snprintf(command, sizeof command, "rm -rf %s", template);
    return system(command) == 0 ? status : 1;
}
