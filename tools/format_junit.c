// JUnit's XML as Jenkins, GitLab and the GitHub actions read it: a test case for each finding,
// which fails. Without findings, one that passes, since many consumers take no test at all for an
// error. What was not seen is skipped.
#include "format.h"
#include "utf8.h"
#include <stdlib.h>
#include <string.h>

// XML 1.0 knows no way to write most control characters.
static void write_text(FILE *out, const char *text) {
    char *plain = utf8_plain(text);
    for (const char *c = plain; *c; c++)
        switch (*c) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default: {
            // U+FFFE and U+FFFF are no XML characters, either.
            bool is_last = strncmp(c, "\xef\xbf", 2) == 0 && (unsigned char)c[2] >= 0xbe;
            if (is_last)
                c += 2;
            fputc(is_last ? '?' : *c, out);
        }
        }
    free(plain);
}

static void write_line(void *context, const char *text) {
    write_text(context, text);
    fputc('\n', context);
}

static void write_attribute(FILE *out, const char *name, const char *value) {
    fprintf(out, " %s=\"", name);
    write_text(out, value);
    fputc('"', out);
}

static void write_details(FILE *out, const struct report_class *merged) {
    const struct report_finding *sample = merged->findings[0];
    const struct report_stack *stack;
    char line[256];
    for (int i = 0; format_stack_at(sample, i, line, sizeof line, &stack); i++) {
        write_line(out, line);
        format_stack_lines(stack, write_line, out);
    }
    for (uint32_t i = 0; i < merged->finding_count; i++) {
        const struct report_process *process = merged->findings[i]->process;
        fprintf(out, "%u in process %u ", merged->findings[i]->socket_count, process->pid);
        write_line(out, report_program(process));
    }
}

static bool is_failure(const struct report_finding *sample) {
    return sample->is_leak && !sample->suppressed_by && !sample->is_known;
}

static void write_case(FILE *out, const struct report_class *merged) {
    const struct report_finding *sample = merged->findings[0];
    const struct report_frame *frame = report_finding_frame(sample);
    char title[256], *name = NULL;
    if (asprintf(&name, "%s in %s [%s]", verdict_name(sample->verdict),
                 frame && frame->function ? frame->function : "an unknown function",
                 sample->fingerprint) < 0)
        name = NULL;
    format_title(merged, title, sizeof title);
    fputs("    <testcase classname=\"sockleak\"", out);
    write_attribute(out, "name", name ? name : sample->fingerprint);
    if (frame && frame->file) {
        write_attribute(out, "file", format_path(frame->file));
        fprintf(out, " line=\"%u\"", frame->line);
    }
    fputs(" time=\"0\">\n", out);
    if (is_failure(sample)) {
        fputs("      <failure", out);
        write_attribute(out, "message", title);
        write_attribute(out, "type", verdict_name(sample->verdict));
        fputs(">", out);
        write_details(out, merged);
        fputs("</failure>\n", out);
    } else if (sample->is_leak) {
        fputs("      <skipped", out);
        write_attribute(out, "message",
                        sample->suppressed_by ? sample->suppressed_by : "known from the baseline");
        fputs("/>\n", out);
    }
    fputs("    </testcase>\n", out);
    free(name);
}

// What was not seen, as tests that were not run: else they would count as passed.
static void write_limit(void *context, const char *text) {
    fputs("    <testcase classname=\"sockleak\" name=\"not seen\" time=\"0\">\n      <skipped",
          context);
    write_attribute(context, "message", text);
    fputs("/>\n    </testcase>\n", context);
}

static void count_limit(void *context, const char *text) {
    (void)text;
    ++*(unsigned *)context;
}

static bool is_case(const struct report_finding *sample, const struct render_options *options) {
    return sample->is_leak || options->show_all;
}

void format_junit(const struct report *report, FILE *out, const struct render_options *options) {
    unsigned cases = 0, failures = 0, skipped = 0, limits = 0;
    format_each_limit(report, count_limit, &limits);
    for (uint32_t i = 0; i < report->class_count; i++) {
        const struct report_finding *sample = report->classes[i].findings[0];
        cases += is_case(sample, options);
        failures += is_failure(sample);
        skipped += sample->is_leak && !is_failure(sample);
    }
    char counts[160];
    snprintf(
        counts, sizeof counts,
        "name=\"sockleak\" tests=\"%u\" failures=\"%u\" errors=\"0\" skipped=\"%u\" time=\"0\"",
        cases + limits ? cases + limits : 1, failures, skipped + limits);
    fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites %s>\n  <testsuite %s>\n",
            counts, counts);
    if (cases + limits == 0)
        fputs("    <testcase classname=\"sockleak\" name=\"no socket leaked\" time=\"0\"/>\n", out);
    for (uint32_t i = 0; i < report->class_count; i++)
        if (is_case(report->classes[i].findings[0], options))
            write_case(out, &report->classes[i]);
    format_each_limit(report, write_limit, out);
    fputs("  </testsuite>\n</testsuites>\n", out);
}
