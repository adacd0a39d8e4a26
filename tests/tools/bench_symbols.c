// How long naming takes: bench_symbols FILE [ADDRESSES]. Makes a report whose stacks have so many
// distinct addresses, spread over the file's functions, and prints the seconds, what was named and
// the memory as JSON.
#include "gather.h"
#include "module_file.h"
#include "symbolize.h"
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

enum {
    DEPTH = 16
};

static uint64_t address_at(const struct module_file *file, size_t i, size_t count) {
    const struct module_symbol *symbol = &file->symbols[i * file->symbol_count / count];
    uint64_t size = symbol->end > symbol->address ? symbol->end - symbol->address : 2;
    return symbol->address + 1 + (uint64_t)rand() % size;
}

static void add_sockets(struct report *report, struct report_module *module, size_t count) {
    struct module_file file;
    if (module_file_open(&file, report, module) < 0 || file.symbol_count == 0) {
        fprintf(stderr, "bench_symbols: no symbols in %s\n", module->path);
        exit(1);
    }
    struct report_process *process = gather_process(report);
    process->socket_count = (uint32_t)(count / DEPTH);
    process->sockets = calloc(process->socket_count, sizeof *process->sockets);
    for (uint32_t i = 0; i < process->socket_count; i++) {
        struct report_address addresses[DEPTH];
        for (uint32_t k = 0; k < DEPTH; k++)
            addresses[k] = (struct report_address){module, address_at(&file, i * DEPTH + k, count)};
        process->sockets[i].process = process;
        process->sockets[i].birth = gather_stack(report, addresses, DEPTH, false);
    }
    module_file_close(&file);
}

int main(int argc, char **argv) {
    struct timespec start, end;
    struct rusage usage;
    size_t count = argc > 2 ? strtoul(argv[2], NULL, 10) : 10000, lines = 0, frames = 0;
    if (argc < 2)
        return 2;
    struct report *report = report_new();
    add_sockets(report, gather_module(report, argv[1], ""), count);
    clock_gettime(CLOCK_MONOTONIC, &start);
    symbolize_report(report, true);
    clock_gettime(CLOCK_MONOTONIC, &end);
    for (uint32_t i = 0; i < report->stack_count; i++)
        for (uint32_t k = 0; k < report->stacks[i]->frame_count; k++, frames++)
            lines += report->stacks[i]->frames[k].line != 0;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"addresses\": %zu, \"frames\": %zu, \"with_line\": %zu, \"seconds\": %.3f, "
           "\"max_rss_kb\": %ld}\n",
           count, frames, lines,
           (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9,
           usage.ru_maxrss);
    report_free(report);
    return 0;
}
