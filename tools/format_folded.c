// Folded stacks, as flamegraph.pl and speedscope read them: where leaked sockets were opened,
// outermost frame first, weight = sockets.
#include "base_name.h"
#include "format.h"
#include "utf8.h"
#include <stdlib.h>
#include <string.h>

// `;` separates frames and a blank the weight, so the first must not stand in a name; a newline
// would end the stack.
static void write_name(FILE *out, const char *name) {
    char *plain = utf8_plain(name);
    for (const char *c = plain; *c; c++)
        fputc(*c == ';' ? ':' : *c, out);
    free(plain);
}

static void write_frame(FILE *out, const struct report_frame *frame) {
    if (frame->function) {
        write_name(out, frame->function);
    } else {
        write_name(out, frame->module ? base_name(frame->module) : "??");
        fprintf(out, "+0x%llx", (unsigned long long)frame->module_offset);
    }
    fputc(';', out);
}

static void write_finding(FILE *out, const struct report_finding *finding) {
    const struct report_stack *stack = finding->sockets[0]->birth;
    write_name(out, report_program(finding->process));
    fputc(';', out);
    for (uint32_t i = stack ? stack->frame_count : 0; i-- > 0;)
        if (!stack->frames[i].hidden)
            write_frame(out, &stack->frames[i]);
    const char *call = report_birth_call(finding->sockets[0]);
    fprintf(out, "%s %u\n", strcmp(call, "unknown") == 0 ? "[origin unknown]" : call,
            finding->socket_count);
}

void format_folded(const struct report *report, FILE *out, const struct render_options *options) {
    for (uint32_t i = 0; i < report->class_count; i++)
        for (uint32_t k = 0; k < report->classes[i].finding_count; k++)
            if (format_is_shown(report->classes[i].findings[k], options))
                write_finding(out, report->classes[i].findings[k]);
}
