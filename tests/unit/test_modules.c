// track/modules: which file an address belongs to. The judge is dladdr.
#include "ledger/ledger.h"
#include "track/modules.h"
#include "unit.h"
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void make(void) {
    assert_int_equal(ledger_create("", 32, NULL), 1);
}

static const struct ledger_module *module_of(uint64_t frame) {
    uint32_t number = LEDGER_FRAME_MODULE(frame);
    assert_in_range(number, 1, ledger.header->regions[LEDGER_MODULES].used - 1);
    return &ledger.modules[number];
}

static const char *path_of(uint64_t frame) {
    return ledger.strings + module_of(frame)->path;
}

ISOLATED(an_address_of_libc_is_libcs) {
    make();
    void *function = dlsym(RTLD_DEFAULT, "getpid");
    Dl_info info;
    struct link_map *map;
    assert_int_not_equal(dladdr1(function, &info, (void **)&map, RTLD_DL_LINKMAP), 0);
    uint64_t frame = module_frame(function);
    assert_string_equal(path_of(frame), map->l_name);
    assert_int_equal(module_of(frame)->bias, map->l_addr);
    assert_int_equal(LEDGER_FRAME_OFFSET(frame), (uintptr_t)function - map->l_addr);
}

ISOLATED(the_programs_own_code_is_the_executables) {
    make();
    char exe[4096] = "";
    assert_true(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    uint64_t frame = module_frame((void *)make);
    assert_string_equal(path_of(frame), exe);
    // This program is linked at a fixed address (unit.mk): the file counts as the process does.
    assert_int_equal(LEDGER_FRAME_OFFSET(frame), (uintptr_t)make);
}

ISOLATED(a_module_is_recorded_once) {
    make();
    uint64_t frame = module_frame((void *)make);
    uint64_t used = ledger.header->regions[LEDGER_MODULES].used;
    assert_int_equal(LEDGER_FRAME_MODULE(module_frame((char *)make + 1)),
                     LEDGER_FRAME_MODULE(frame));
    assert_int_equal(ledger.header->regions[LEDGER_MODULES].used, used);
}

ISOLATED(an_address_in_no_file_is_kept_plain) {
    make();
    char *generated = malloc(16);
    assert_int_equal(module_frame(generated), (uintptr_t)generated);
    assert_int_equal(module_frame(NULL), 0);
    free(generated);
}

// The judge is the note in the file, as the linker wrote it: readelf prints it.
static void expect_its_build_id(const void *address) {
    const struct ledger_module *module = module_of(module_frame(address));
    char command[512], line[256], expected[64] = "", hex[64] = "";
    snprintf(command, sizeof command, "readelf -n %s 2>/dev/null", ledger.strings + module->path);
    FILE *readelf = popen(command, "r");
    while (readelf && fgets(line, sizeof line, readelf))
        sscanf(line, " Build ID: %63s", expected);
    if (readelf)
        pclose(readelf);
    if (!expected[0])
        isolated_skip("readelf is missing, or the file has no build id");
    for (uint32_t i = 0; i < module->build_id_bytes; i++)
        sprintf(hex + 2 * i, "%02x", module->build_id[i]);
    assert_string_equal(hex, expected);
}

ISOLATED(the_build_id_is_the_files) {
    make();
    expect_its_build_id(dlsym(RTLD_DEFAULT, "getpid"));
    expect_its_build_id((void *)make);
}

ISOLATED(after_an_unload_what_is_still_there_is_still_the_same_module) {
    make();
    uint64_t frame = module_frame((void *)make);
    uint64_t unloads = module_unloads();
    module_unloaded();
    assert_int_equal(module_unloads(), unloads + 1);
    assert_int_equal(module_frame((void *)make), frame);
}

ISOLATED(another_file_at_an_unloaded_ones_place_is_another_module) {
    make();
    uint64_t frame = module_frame((void *)make);
    // As if another file had been here: the module table says so, and something was unloaded.
    struct ledger_module *module = &ledger.modules[LEDGER_FRAME_MODULE(frame)];
    static const char other[] = "/other/library.so";
    uint64_t at = ledger_take(LEDGER_STRINGS, sizeof other, 1);
    memcpy(ledger.strings + at, other, sizeof other);
    module->path = (uint32_t)at;
    module_unloaded();
    uint64_t now = module_frame((void *)make);
    assert_int_not_equal(LEDGER_FRAME_MODULE(now), LEDGER_FRAME_MODULE(frame));
    assert_string_not_equal(path_of(now), other);
}

ISOLATED(a_file_that_comes_back_to_its_place_keeps_its_number) {
    make();
    uint64_t frame = module_frame((void *)make);
    struct ledger_module *module = &ledger.modules[LEDGER_FRAME_MODULE(frame)];
    module->build_id_bytes = 1; // not this file's: as if it had been built anew
    struct ledger_module was = *module;
    module_unloaded();
    uint64_t other = module_frame((void *)make);
    assert_int_not_equal(LEDGER_FRAME_MODULE(other), LEDGER_FRAME_MODULE(frame));
    *module = ledger.modules[LEDGER_FRAME_MODULE(other)];
    ledger.modules[LEDGER_FRAME_MODULE(other)] = was;
    module_unloaded();
    assert_int_equal(module_frame((void *)make), frame);
}

ISOLATED(a_full_table_leaves_plain_addresses) {
    make();
    const struct ledger_region *modules = &ledger.header->regions[LEDGER_MODULES];
    uint64_t room = modules->reserved_bytes / sizeof(struct ledger_module);
    assert_int_not_equal(
        ledger_take(LEDGER_MODULES, room - modules->used, sizeof(struct ledger_module)), 0);
    assert_int_equal(module_frame((void *)make), LEDGER_FRAME(0, (uintptr_t)make));
}

static void *ask(void *out) {
    for (int i = 0; i < 1000; i++)
        *(uint64_t *)out = module_frame((void *)make);
    return NULL;
}

ISOLATED(threads_that_meet_a_module_at_once_all_get_a_right_answer) {
    make();
    pthread_t threads[4];
    uint64_t frames[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &frames[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(module_of(frames[i])->bias + LEDGER_FRAME_OFFSET(frames[i]),
                         (uintptr_t)make);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_of_libc_is_libcs),
        cmocka_unit_test(the_programs_own_code_is_the_executables),
        cmocka_unit_test(a_module_is_recorded_once),
        cmocka_unit_test(an_address_in_no_file_is_kept_plain),
        cmocka_unit_test(the_build_id_is_the_files),
        cmocka_unit_test(after_an_unload_what_is_still_there_is_still_the_same_module),
        cmocka_unit_test(another_file_at_an_unloaded_ones_place_is_another_module),
        cmocka_unit_test(a_file_that_comes_back_to_its_place_keeps_its_number),
        cmocka_unit_test(a_full_table_leaves_plain_addresses),
        cmocka_unit_test(threads_that_meet_a_module_at_once_all_get_a_right_answer),
    };
    return cmocka_run_group_tests_name("modules", tests, NULL, NULL);
}
