// Workflow commands of GitHub Actions: an annotation at the line of each finding.
// docs.github.com, "Workflow commands for GitHub Actions".
#include "format.h"
#include "report/names.h"
#include "utf8.h"
#include <stdlib.h>
#include <string.h>

// As actions/toolkit's command.ts does: in values of properties, `:` and `,` too.
static void write_escaped(FILE *out, const char *text, bool in_property) {
    char *plain = utf8_plain(text);
    for (const char *c = plain; *c; c++)
        if (*c == '%' || (in_property && (*c == ':' || *c == ',')))
            fprintf(out, "%%%02X", *c);
        else
            fputc(*c, out);
    free(plain);
}

static void write_line(void *context, const char *text) {
    fputs("%0A", context);
    write_escaped(context, text, false);
}

static void write_properties(FILE *out, const struct report_finding *sample) {
    const struct report_frame *frame = report_finding_frame(sample);
    if (frame && frame->file) {
        fputs(" file=", out);
        write_escaped(out, format_path(frame->file), true);
        fprintf(out, ",line=%u,title=", frame->line ? frame->line : 1);
    } else {
        fputs(" title=", out);
    }
    write_escaped(out, "sockleak: ", true);
    write_escaped(out, verdict_name(sample->verdict), true);
}

static void write_class(FILE *out, const struct report_class *merged) {
    const struct report_finding *sample = merged->findings[0];
    char title[256], heading[96];
    const struct report_stack *stack;
    fputs(!sample->is_leak || sample->is_known ? "::notice" : "::error", out);
    write_properties(out, sample);
    fputs("::", out);
    format_title(merged, title, sizeof title);
    write_escaped(out, title, false);
    for (int i = 0; format_stack_at(sample, i, heading, sizeof heading, &stack); i++) {
        write_line(out, heading);
        format_stack_lines(stack, write_line, out);
    }
    fputc('\n', out);
}

// Without it, a run that saw nothing would look like a clean one.
static void write_limit(void *context, const char *text) {
    fputs("::warning title=sockleak%3A not seen::", context);
    write_escaped(context, text, false);
    fputc('\n', context);
}

void format_github(const struct report *report, FILE *out, const struct render_options *options) {
    for (uint32_t i = 0; i < report->class_count; i++)
        if (format_is_shown(report->classes[i].findings[0], options))
            write_class(out, &report->classes[i]);
    format_each_limit(report, write_limit, out);
}
