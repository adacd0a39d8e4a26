// report/symbols: names from files, also from files that mean no good. The judges are dladdr and
// ELF files that the test builds itself, by elf(5).
#include "report/symbols.h"
#include "unit.h"
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct scratch scratch;
static struct symbols *symbols;
static char path[128];

static int begin(void **state) {
    (void)state;
    assert_int_equal(scratch_open(&scratch), 0);
    symbols = scratch_take(&scratch, sizeof *symbols);
    symbols->scratch = &scratch;
    snprintf(path, sizeof path, "%s/file", scratch_directory());
    unlink(path);
    return 0;
}

static int end(void **state) {
    (void)state;
    scratch_close(&scratch);
    return 0;
}

static const char *name_at(uint64_t address) {
    uint64_t offset;
    return symbols_name(symbols, 1, path, NULL, 0, address, &offset);
}

// --- real files ---------------------------------------------------------------------------------

static uint64_t bias_of(void *address) {
    Dl_info info;
    struct link_map *map;
    assert_int_not_equal(dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP), 0);
    return map->l_addr;
}

static void a_static_function_is_named_from_symtab(void **state) {
    (void)state;
    uint64_t offset, address = (uintptr_t)bias_of - bias_of((void *)bias_of);
    assert_string_equal(symbols_name(symbols, 1, "/proc/self/exe", NULL, 0, address + 3, &offset),
                        "bias_of");
    assert_int_equal(offset, 3);
}

static void functions_of_libc_are_named_from_dynsym(void **state) {
    (void)state;
    static const char *const names[] = {"getpid", "qsort", "fopen", "accept4"};
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    assert_non_null(libc);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *function = dlsym(libc, names[i]);
        Dl_info wanted, info;
        struct link_map *map;
        assert_int_not_equal(dladdr1(function, &info, (void **)&map, RTLD_DL_LINKMAP), 0);
        uint64_t offset;
        const char *name = symbols_name(symbols, 2, map->l_name, NULL, 0,
                                        (uintptr_t)function - map->l_addr, &offset);
        assert_non_null(name);
        assert_int_equal(offset, 0);
        // Of two names for one function either will do.
        assert_int_not_equal(dladdr(dlsym(libc, name), &wanted), 0);
        assert_ptr_equal(wanted.dli_saddr, info.dli_saddr);
    }
}

static void a_file_that_is_not_there_or_no_file_has_no_names(void **state) {
    (void)state;
    uint64_t offset;
    assert_null(symbols_name(symbols, 1, "/nonexistent", NULL, 0, 1, &offset));
    assert_null(symbols_name(symbols, 2, "/tmp", NULL, 0, 1, &offset));
    assert_null(symbols_name(symbols, 3, "/dev/zero", NULL, 0, 1, &offset));
    assert_null(symbols_name(symbols, 4, "", NULL, 0, 1, &offset));
    assert_int_equal(mkfifo(path, 0600), 0); // opening it must not wait for a writer
    alarm(20);
    assert_null(symbols_name(symbols, 5, path, NULL, 0, 1, &offset));
    alarm(0);
    assert_null(symbols_name(symbols, SYMBOLS_FILES, "/proc/self/exe", NULL, 0, 1, &offset));
    assert_null(symbols_name(symbols, UINT32_MAX, "/proc/self/exe", NULL, 0, 1, &offset));
}

// --- files of our own ---------------------------------------------------------------------------

enum {
    SYMBOLS = 8,
    SECTIONS = 4
};

static const uint8_t build_id[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};

static struct elf {
    Elf64_Ehdr header;
    Elf64_Shdr sections[SECTIONS]; // none, symbols, names, note
    Elf64_Sym symbols[SYMBOLS];
    char names[128];
    struct {
        Elf64_Nhdr head;
        char owner[4];
        uint8_t id[20];
    } note;
} elf;

static unsigned symbol_count, names_bytes;

static void add_symbol(const char *name, uint64_t at, uint64_t bytes, unsigned char type) {
    Elf64_Sym *symbol = &elf.symbols[symbol_count++];
    symbol->st_name = names_bytes;
    symbol->st_value = at;
    symbol->st_size = bytes;
    symbol->st_shndx = 1;
    symbol->st_info = ELF64_ST_INFO(STB_GLOBAL, type);
    strcpy(elf.names + names_bytes, name);
    names_bytes += (unsigned)strlen(name) + 1;
    elf.sections[1].sh_size = symbol_count * sizeof(Elf64_Sym);
    elf.sections[2].sh_size = names_bytes;
}

static void new_elf(void) {
    memset(&elf, 0, sizeof elf);
    memcpy(elf.header.e_ident, ELFMAG, SELFMAG);
    elf.header.e_ident[EI_CLASS] = ELFCLASS64;
    elf.header.e_ident[EI_DATA] = ELFDATA2LSB;
    elf.header.e_shoff = offsetof(struct elf, sections);
    elf.header.e_shentsize = sizeof(Elf64_Shdr);
    elf.header.e_shnum = SECTIONS;
    elf.sections[1] = (Elf64_Shdr){
        .sh_type = SHT_SYMTAB, .sh_link = 2, .sh_offset = offsetof(struct elf, symbols)};
    elf.sections[2] = (Elf64_Shdr){.sh_type = SHT_STRTAB, .sh_offset = offsetof(struct elf, names)};
    elf.sections[3] = (Elf64_Shdr){
        .sh_type = SHT_NOTE, .sh_offset = offsetof(struct elf, note), .sh_size = sizeof elf.note};
    elf.note.head = (Elf64_Nhdr){4, sizeof build_id, NT_GNU_BUILD_ID};
    memcpy(elf.note.owner, "GNU", 4);
    memcpy(elf.note.id, build_id, sizeof build_id);
    symbol_count = 1;
    names_bytes = 1;
}

static void save(void) {
    write_file(path, &elf, sizeof elf);
}

static void a_function_covers_its_first_byte_and_its_last(void **state) {
    (void)state;
    uint64_t offset;
    new_elf();
    add_symbol("one", 0x1000, 0x10, STT_FUNC);
    add_symbol("two", 0x1010, 0x10, STT_FUNC);
    save();
    assert_null(name_at(0xfff));
    assert_string_equal(name_at(0x1000), "one");
    assert_string_equal(name_at(0x100f), "one");
    assert_string_equal(name_at(0x1010), "two");
    assert_string_equal(symbols_name(symbols, 1, path, NULL, 0, 0x101f, &offset), "two");
    assert_int_equal(offset, 0xf);
    assert_null(name_at(0x1020));
    assert_null(name_at(UINT64_MAX));
}

static void data_and_undefined_symbols_name_no_code(void **state) {
    (void)state;
    new_elf();
    add_symbol("table", 0x1000, 0x100, STT_OBJECT);
    add_symbol("import", 0x1000, 0x100, STT_FUNC);
    elf.symbols[2].st_shndx = SHN_UNDEF;
    add_symbol("here", 0x1040, 0, STT_NOTYPE);
    save();
    assert_null(name_at(0x1010));
}

static void of_nested_functions_the_nearest_wins(void **state) {
    (void)state;
    new_elf();
    add_symbol("outer", 0x1000, 0x100, STT_FUNC);
    add_symbol("inner", 0x1040, 0x10, STT_FUNC);
    save();
    assert_string_equal(name_at(0x1044), "inner");
    assert_string_equal(name_at(0x1080), "outer");
}

static void assembly_without_a_size_covers_what_follows(void **state) {
    (void)state;
    new_elf();
    add_symbol("entry", 0x1000, 0, STT_FUNC);
    save();
    assert_string_equal(name_at(0x1008), "entry");
}

// Such as _init, which would else name every static function of a stripped library.
static void a_symbol_without_a_size_does_not_reach_behind_another(void **state) {
    (void)state;
    new_elf();
    add_symbol("_init", 0x1000, 0, STT_FUNC);
    add_symbol("exported", 0x2000, 0x10, STT_FUNC);
    save();
    assert_string_equal(name_at(0x2008), "exported");
    assert_null(name_at(0x3000));
}

static void a_replaced_file_tells_nothing(void **state) {
    (void)state;
    uint64_t offset;
    uint8_t other[20];
    new_elf();
    add_symbol("one", 0x1000, 0x10, STT_FUNC);
    save();
    assert_string_equal(symbols_name(symbols, 1, path, build_id, sizeof build_id, 0x1000, &offset),
                        "one");
    memcpy(other, build_id, sizeof other);
    other[19] ^= 1;
    assert_null(symbols_name(symbols, 2, path, other, sizeof other, 0x1000, &offset));
    elf.sections[3].sh_type = SHT_NULL; // no build id at all
    save();
    assert_null(symbols_name(symbols, 3, path, build_id, sizeof build_id, 0x1000, &offset));
}

static void a_file_is_read_once(void **state) {
    (void)state;
    new_elf();
    add_symbol("one", 0x1000, 0x10, STT_FUNC);
    save();
    int lowest = dup(0);
    close(lowest);
    assert_string_equal(name_at(0x1000), "one");
    assert_int_equal(dup(0), lowest); // no descriptor stays open
    close(lowest);
    unlink(path);
    assert_string_equal(name_at(0x1000), "one");
}

// --- files that mean no good --------------------------------------------------------------------

static void probe(void) {
    static const uint64_t addresses[] = {0, 1, 0x1000, 0x100f, 0x1010, UINT64_MAX, 1ull << 63};
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        const char *name = name_at(addresses[i]);
        assert_true(!name || strlen(name) < sizeof elf); // a string that ends in the table
    }
}

static void again(void) {
    end(NULL);
    begin(NULL);
}

static void a_file_cut_anywhere_does_not_crash(void **state) {
    (void)state;
    new_elf();
    add_symbol("one", 0x1000, 0x10, STT_FUNC);
    for (size_t bytes = 0; bytes < sizeof elf; bytes += 3) {
        write_file(path, &elf, bytes);
        probe();
        again();
    }
}

static void a_file_with_any_field_at_its_extremes_does_not_crash(void **state) {
    (void)state;
    static const uint8_t extremes[] = {0x00, 0xff, 0x7f, 0x80};
    for (size_t at = 0; at < offsetof(struct elf, names) + 8; at++)
        for (size_t e = 0; e < sizeof extremes; e++) {
            new_elf();
            add_symbol("one", 0x1000, 0x10, STT_FUNC);
            size_t bytes = at % 8 == 0 ? 8 : 1; // whole fields, and single bytes of them
            memset((char *)&elf + at, extremes[e], bytes);
            save();
            probe();
            again();
        }
}

static void garbage_does_not_crash(void **state) {
    (void)state;
    uint64_t random = 88172645463325252u;
    for (int round = 0; round < 2000; round++) {
        new_elf();
        add_symbol("one", 0x1000, 0x10, STT_FUNC);
        for (int hits = 0; hits < 8; hits++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            size_t at = EI_DATA + random % (sizeof elf - EI_DATA);
            ((unsigned char *)&elf)[at] = (unsigned char)(random >> 40);
        }
        save();
        probe();
        again();
    }
}

static void names_without_an_end_stay_in_their_table(void **state) {
    (void)state;
    new_elf();
    add_symbol("one", 0x1000, 0x10, STT_FUNC);
    memset(elf.names, 'x', sizeof elf.names);
    memset(&elf.symbols[0], 'x', sizeof elf.symbols[0]); // what may come to lie behind them
    elf.sections[2].sh_size = 16;
    save();
    assert_string_equal(name_at(0x1000), "xxxxxxxxxxxxxxx"); // from its second byte on
    again();
    elf.symbols[1].st_name = 16; // just behind
    save();
    assert_null(name_at(0x1000));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_static_function_is_named_from_symtab),
        TEST(functions_of_libc_are_named_from_dynsym),
        TEST(a_file_that_is_not_there_or_no_file_has_no_names),
        TEST(a_function_covers_its_first_byte_and_its_last),
        TEST(data_and_undefined_symbols_name_no_code),
        TEST(of_nested_functions_the_nearest_wins),
        TEST(assembly_without_a_size_covers_what_follows),
        TEST(a_symbol_without_a_size_does_not_reach_behind_another),
        TEST(a_replaced_file_tells_nothing),
        TEST(a_file_is_read_once),
        TEST(a_file_cut_anywhere_does_not_crash),
        TEST(a_file_with_any_field_at_its_extremes_does_not_crash),
        TEST(garbage_does_not_crash),
        TEST(names_without_an_end_stay_in_their_table),
    };
    scratch_directory();
    return cmocka_run_group_tests_name("symbols", tests, NULL, NULL);
}
