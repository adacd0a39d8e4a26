// Is this process executed by valgrind, and by which of its tools? Asked by its client requests:
// instructions that do nothing elsewhere (manual, section 3.1, "The Client Request mechanism").
// Signal-safe.
#ifndef SOCKLEAK_BASE_VALGRIND_H
#define SOCKLEAK_BASE_VALGRIND_H

#include <stdbool.h>
#include <stdint.h>

// The answer to a request about no memory; `otherwise` where nobody answers.
static inline uint64_t valgrind_answer(uint64_t request, uint64_t otherwise) {
    uint64_t words[6] = {request}, answer = otherwise;
#if defined(__x86_64__)
    __asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\t"
                     "xchgq %%rbx, %%rbx"
                     : "+d"(answer)
                     : "a"(words)
                     : "cc", "memory");
#else
    register uint64_t x3 __asm__("x3") = answer;
    register uint64_t *x4 __asm__("x4") = words;
    __asm__ volatile("ror x12, x12, #3\n\tror x12, x12, #13\n\tror x12, x12, #51\n\t"
                     "ror x12, x12, #61\n\torr x10, x10, x10"
                     : "+r"(x3)
                     : "r"(x4)
                     : "cc", "memory");
    answer = x3;
#endif
    return answer;
}

static inline bool valgrind_runs(void) {
    const uint64_t running_on_valgrind = 0x1001; // valgrind.h: how many valgrinds there are
    return valgrind_answer(running_on_valgrind, 0) != 0;
}

// Whether it is a tool that finds fault with reads: memcheck, helgrind and drd each answer the
// first of their own requests, whose numbers begin with two letters.
static inline bool valgrind_judges_reads(void) {
    const uint64_t make_mem_noaccess = 'M' << 24 | 'C' << 16;      // memcheck.h
    const uint64_t clean_memory = 'H' << 24 | 'G' << 16;           // helgrind.h
    const uint64_t get_valgrind_thread_id = 'D' << 24 | 'R' << 16; // drd.h
    const uint64_t nobody = ~2ull;
    return valgrind_answer(make_mem_noaccess, nobody) != nobody ||
           valgrind_answer(clean_memory, nobody) != nobody ||
           valgrind_answer(get_valgrind_thread_id, nobody) != nobody;
}

#endif
