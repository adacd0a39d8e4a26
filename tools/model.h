// A report: what all formats render, whatever it was read from (ledgers, our own JSON, a live
// process, several of each). The contract between those who gather, those who judge and those who
// render.
//
//     struct report *report = report_new();
//     report_add_path(report, "run.ledger");        // gather: any number, any order
//     report_observe(report, &facts);                // optional: what the kernel says now
//     report_finish(report, &options);               // judge, join, group, symbolize, suppress
//     report_write(report, FORMAT_JSON, stdout, &render);
//     report_free(report);
//
// Everything in a report lives until report_free(); strings given to it are copied. One thread.
// Functions that return int return 0 or -errno, and have said on stderr what is wrong. No memory:
// the program ends with a message.
#ifndef SOCKLEAK_TOOLS_MODEL_H
#define SOCKLEAK_TOOLS_MODEL_H

#include "arena.h"
#include "report/cause.h"
#include "report/teardown.h"
#include "report/text.h"
#include "report/verdict.h"
#include <stdbool.h>
#include <stdio.h>

// --- stacks -------------------------------------------------------------------------------------

// A file that code was loaded from. One object a path and build id.
struct report_module {
    const char *path;
    const char *build_id; // lower-case hex, "" where it had none
    // Set by symbolize: what to know before trusting its lines ("replaced since"), or NULL.
    const char *problem;
    uint32_t pid; // of a live process that has it loaded, to find it in other roots; 0 none
};

// An address as the ledger has it. module NULL: `offset` is a plain address in no file.
struct report_address {
    struct report_module *module;
    uint64_t offset; // a return address, counted as addr2line does
};

// A line of a shown stack. NULL and 0 are "not known". An inlined function comes before the one
// that it was inlined into; they share the module offset.
struct report_frame {
    const char *function; // demangled
    const char *module, *build_id;
    const char *file; // source
    uint64_t function_offset, module_offset;
    uint32_t line;
    bool inlined; // then function_offset means nothing
    bool hidden;  // the C library's start-up, or our library: not shown in texts
};

// A distinct stack of this report. Equal stacks are the same object, also across processes.
struct report_stack {
    const struct report_address *addresses; // from a ledger; NULL when read from JSON
    struct report_frame *frames;            // after report_finish()
    uint32_t address_count, frame_count;
    bool is_cut; // the outermost frames are missing
    uint32_t number;
    struct report_site *site; // what became of the sockets born here; NULL: none were, or not known
    uint64_t closed_by_children; // copies, left by fork, of sockets born here: at least
};

// --- call sites ---------------------------------------------------------------------------------

// What became of the sockets that were born at one stack, in all processes: the counters of
// struct ledger_stack, summed.
struct report_site {
    struct report_stack *stack;
    struct report_stack *close_stack; // of a recent active close; NULL not known
    uint8_t call;                     // enum ledger_call; unknown where no open socket tells
    uint64_t opened, closed;
    uint64_t passive, active, reset, connecting, shared; // of `closed`; the rest is not known
    uint64_t gave_up, gave_up_ms;
    uint64_t open, leaked; // now; `leaked` are not among `open`
    uint64_t lifetimes[LEDGER_LIFETIME_BUCKETS];
    uint64_t lifetime_max_ms;
    uint32_t index;           // for the JSON writer
    bool is_sampled;          // how they ended was asked of some, and is about right for all
    uint64_t recent_active;   // active closes in the last 60 s of each process
    double recent_per_second; // and their rate
};

// Active closes towards one peer of connections that were made at one call site.
struct report_destination {
    struct ledger_address peer;
    struct report_stack *stack; // where the connections were made
    uint64_t active, recent_active;
    double recent_per_second;
};

// TIME_WAIT as the kernel counts it, in one network namespace.
struct report_kernel_peer {
    struct ledger_address peer;
    uint64_t time_wait;
};

int report_kernel_peer_order(const void *a, const void *b); // for qsort and bsearch

struct report_kernel {
    bool is_known;
    uint64_t time_wait;
    uint16_t first_port, last_port;   // net.ipv4.ip_local_port_range; 0 not known
    int tw_reuse;                     // net.ipv4.tcp_tw_reuse; -1 not known
    int timestamps;                   // net.ipv4.tcp_timestamps; -1 not known
    struct report_kernel_peer *peers; // sorted; all that have any in TIME_WAIT
    uint32_t peer_count;
};

// --- sockets ------------------------------------------------------------------------------------

enum report_hints {                  // what the JSON calls "hints"
    HINT_INHERITED = 1 << 0,         // "inherited": by fork or exec
    HINT_HELD_BY_PARENT = 1 << 1,    // "held-by-parent"
    HINT_READER_GONE = 1 << 2,       // "reader-gone": who read end of stream has ended
    HINT_DUPLICATED = 1 << 3,        // "duplicated": several descriptors
    HINT_LAST_KNOWN = 1 << 4,        // "last-known": no look at the kernel's state
    HINT_NO_READ_TIMEOUT = 1 << 5,   // "no-read-timeout"
    HINT_BLOCKED_ELSEWHERE = 1 << 6, // "blocked-elsewhere": its thread waits in another call
    // Of the snapshot's properties, as is HINT_NO_READ_TIMEOUT:
    HINT_NO_KEEPALIVE = 1 << 7,  // "no-keepalive"
    HINT_NO_CLOEXEC = 1 << 8,    // "no-cloexec"
    HINT_BLOCKING_MODE = 1 << 9, // "blocking-mode"
    HINT_UNREAD_DATA = 1 << 10   // "unread-data"
};
enum {
    HINT_COUNT = 11,
    // Those that tell of the socket itself, and how it was made.
    HINTS_OF_PROPERTIES = HINT_NO_READ_TIMEOUT | HINT_NO_KEEPALIVE | HINT_NO_CLOEXEC |
                          HINT_BLOCKING_MODE | HINT_UNREAD_DATA
};

// A step of a connection's end, and when it happened.
struct report_event {
    struct teardown_event event;      // its stack: see below
    int64_t ago_ms;                   // before the last look at the socket; -1 not known
    int64_t epoch_ms;                 // since 1970; -1 not known
    const struct report_stack *stack; // of the call; NULL none
};

struct report_teardown {
    struct report_event events[TEARDOWN_EVENTS_MAX];
    unsigned count;
    enum teardown_first first;
};

// Another process that has the same socket open.
struct report_holder {
    uint32_t pid;
    int32_t fd;
    const char *name; // the program's, without directories
};

struct report_socket {
    // As the ledger's, but the stacks are below. snapshot.flags without SNAPSHOT_TAKEN: nothing is
    // known of its state. snapshot.verdict is the verdict. Times only make sense as differences.
    struct ledger_record record;
    struct report_process *process;
    struct report_stack *birth, *end_of_stream, *error, *shutdown; // NULL: none
    const int32_t *fds;
    uint32_t fd_count;
    uint32_t hints;                      // enum report_hints
    bool is_fin_consumed;                // as in struct report_socket_facts
    bool is_left_by_exec;                // an earlier image of the process opened it
    uint32_t number;                     // of its record in the ledger; 0 none
    const struct report_holder *holders; // sorted by pid
    uint32_t holder_count;
    const struct report_teardown *teardown; // read from JSON; else see report_socket_teardown()
    const char *cause_text;                 // read from JSON
    const char *suppressed_by;              // a peer rule, or NULL
};

int64_t report_socket_open_ms(const struct report_socket *socket);    // -1 not known
int64_t report_socket_fin_age_ms(const struct report_socket *socket); // -1 not known
bool report_socket_fin_is_bound(const struct report_socket *socket);  // it is that old at least

// How its connection ended, as far as it has, in order. No events: not at all.
void report_socket_teardown(const struct report_socket *socket, struct report_teardown *out);

// --- findings -----------------------------------------------------------------------------------

// Sockets of one process with the same verdict and stacks.
struct report_finding {
    struct report_process *process;
    enum verdict verdict;
    struct report_socket **sockets; // the first is a sample of all
    uint32_t socket_count;
    const char *suppressed_by; // the rule as written, or NULL
    bool is_known;             // in the baseline
    bool is_leak;              // of a leaking group (suppressed and known ones, too)
    // The same for the same bug in the next run and the next build: made of names, not of lines or
    // addresses. 16 hex digits.
    char fingerprint[17];
    struct report_class *merged; // what it is shown as
    enum ledger_cause cause;     // of most of its sockets that have one
    const char *cause_text;      // one or two sentences; NULL where it is unknown
};

// Equal findings of all processes, to be shown once.
struct report_class {
    struct report_finding **findings; // at least one
    uint32_t finding_count;
    uint64_t socket_count;
};

// --- processes ----------------------------------------------------------------------------------

enum report_ended {
    REPORT_RUNNING,
    REPORT_EXIT,            // main returned, exit, quick_exit
    REPORT_UNDERSCORE_EXIT, // _exit, _Exit, exit_group
    REPORT_SIGNAL,
    REPORT_KILLED, // no report of its own: SIGKILL, a crash
    REPORT_EXEC,   // went on as another image, which is a process of its own here
    REPORT_ENDED_COUNT
};

struct report_process {
    uint32_t pid, parent_pid;
    uint32_t first_parent_pid; // when its ledger began, whoever has adopted it since; 0 not known
    uint64_t start_time_ticks; // /proc/PID/stat field 22; 0 not known
    uint64_t created_ns;       // of its ledger, CLOCK_MONOTONIC
    uint64_t epoch_offset_ns;  // CLOCK_REALTIME less CLOCK_MONOTONIC; 0 not known
    uint64_t now_ns;           // the same clock when a live one was looked at; 0 not known
    uint64_t gone_ns;          // and when it was found to have ended; 0 not known
    const char *boot_id;       // "" not known
    const char *ledger;        // names its ledger, in each copy and in JSON; NULL not known
    const char *exe;           // never NULL
    const char **cmdline;
    uint32_t cmdline_count;
    enum report_ended ended;
    int32_t end_status;
    bool has_end_status;
    bool has_snapshot; // it made its last report
    bool is_observed;  // looked at from outside: report_observe()
    bool is_judged;    // read from JSON: its verdicts stand
    bool has_execed;   // it made no last report, since another program took its place
    bool has_rules;    // the library's options in force are known:
    bool unix_sockets, inet_sockets;
    uint32_t grace_ms, exit_grace_ms;
    uint32_t process;      // the ledger's: tells inherited records
    const char *unwatched; // why it has no ledger, or NULL
    struct ledger_counters counters;
    const char **notes; // what is missing or damaged, for people
    uint32_t note_count;

    struct report_socket *sockets; // before report_finish(): all that are open
    uint32_t socket_count;
    struct report_finding *findings; // leaks first
    uint32_t finding_count;
    struct text_totals totals;     // sockets, without suppressed ones
    uint64_t suppressed;           // sockets
    struct report_thread *threads; // see threads.h; none: not asked for
    uint32_t thread_count;
    // Read from JSON that lists no open sockets, but counts them.
    uint64_t unlisted_open, unlisted_inherited;
};

struct report_summary {
    uint64_t leaks;      // sockets of close-wait and dead that no rule suppressed
    uint64_t findings;   // theirs; equal ones of several processes count once
    uint64_t suppressed; // sockets
    uint64_t known;      // of `leaks`: in the baseline
    uint64_t open;
    uint64_t unwatched; // processes
    uint32_t rules_used;
};

struct report {
    struct arena arena;
    struct report_process **processes; // in order of their start
    uint32_t process_count;
    uint32_t repeated_count;      // processes that another input had, and are in it once
    bool is_incomplete;           // an input lacks sockets that it should have, and a note says so
    struct report_class *classes; // leaks first, then those of most sockets
    uint32_t class_count;
    struct report_module **modules;
    uint32_t module_count;
    struct report_stack **stacks;
    uint32_t stack_count;
    struct report_site **sites; // most leaked sockets first, after report_finish()
    uint32_t site_count;
    struct report_destination *destinations; // most recent active closes first
    uint32_t destination_count;
    struct report_kernel kernel;
    bool has_named_sites; // their stacks have frames: report_options.sites, or a reason of our own
    struct suppressions *suppressions; // or NULL
    const char **notes;                // of the report as a whole
    uint32_t note_count;
    struct report_summary summary;
    bool has_baseline;
    bool is_finished;
    void *index; // model.c's tables
};

struct report *report_new(void);
void report_free(struct report *report); // NULL is allowed

// --- gathering ----------------------------------------------------------------------------------

// A ledger file. Any bytes: what cannot be read is said on stderr and by the return value
// (-EBADMSG), what is damaged in part by a note in the report.
int report_add_ledger_file(struct report *report, const char *path);

// The bytes of a ledger (or its front: what lies behind `len_bytes` counts as missing). `label` is
// for messages: "process 123".
int report_add_ledger_memory(struct report *report, const void *bytes, size_t len_bytes,
                             const char *label);

// A ledger held by somebody else, such as a live process: `read` copies len_bytes from `offset`
// and returns 0 or -errno. Only what is in use is asked for.
struct ledger_source {
    int (*read)(void *context, uint64_t offset, void *out, size_t len_bytes);
    void *context;
    uint64_t bytes;    // offsets are below this
    const char *label; // for messages
};
int report_add_ledger_source(struct report *report, const struct ledger_source *source);

// A ledger, our own JSON, or a directory: then all of its *.ledger and *.json files. A directory
// with none is fine.
int report_add_path(struct report *report, const char *file_or_directory);

// Whether it reads a file of this name in a directory.
bool report_reads_name(const char *name);

// A process without a ledger, and why: "statically linked". `exe` may be NULL.
int report_add_unwatched(struct report *report, uint32_t pid, const char *exe, const char *why);

// What the kernel says now of one open socket of a live process. Zeros for what is not known.
struct report_socket_facts {
    uint64_t inode;
    const int32_t *fds;
    uint32_t fd_count;
    uint16_t family, type, protocol; // as for socket(2)
    struct ledger_address local, peer;
    struct ledger_snapshot snapshot; // state, age, queues and flags; taken_ns as in `now_ns`
    uint32_t hints;
    bool is_fin_consumed; // CLOSE_WAIT: the program has read up to the FIN, and over it
};

struct report_process_facts {
    uint32_t pid, parent_pid;
    uint64_t start_time_ticks;
    uint64_t now_ns;     // CLOCK_MONOTONIC
    const char *exe;     // may be NULL
    const char *cmdline; // NUL-separated, cmdline_bytes of it
    size_t cmdline_bytes;
    const struct report_socket_facts *sockets; // all that are open
    uint32_t socket_count;
    const char *unwatched; // why there is no ledger to expect, or NULL
    bool opened_nothing;   // nor is there one: what it has was open when it was executed
    bool has_its_ledger;   // the newest one is of the program that runs now, whatever its file is
                           // called
    // The inode of a socket of this process as of now, after its ledger was read; 0 where the fd is
    // none. NULL: not asked, and what the ledger knows by the fd alone is not explained.
    uint64_t (*inode_now)(uint32_t pid, int fd);
};

// A live process looked at from outside. Joined with the newest ledger of the same pid and start
// time that was added before; what has no ledger is shown as the kernel knows it, origin unknown.
// The kernel is right: sockets of the ledger that are not among the facts are closed.
int report_observe(struct report *report, const struct report_process_facts *facts);

// A line for the end of the text, "notes" in JSON. The first is for the report, the other for one
// process.
void report_note_text(struct report *report, const char *note);
void report_process_note(struct report *report, struct report_process *process, const char *note);

// --- finishing ----------------------------------------------------------------------------------

enum fail_on { // mask
    FAIL_ON_CLOSE_WAIT = 1 << 0,
    FAIL_ON_DEAD = 1 << 1,
    FAIL_ON_OPEN = 1 << 2, // --fail-on=all
    FAIL_ON_DEFAULT = FAIL_ON_CLOSE_WAIT | FAIL_ON_DEAD
};

struct report_options {
    const char *const *suppression_files;
    uint32_t suppression_count;
    const char *const *baseline_files;
    uint32_t baseline_count;
    uint32_t grace_ms; // running processes: what is in its state for less is no leak yet
    bool unix_sockets; // judge AF_UNIX streams of observed processes, too
    bool look_around;  // processes run now: ask /proc who else holds their sockets
    bool sites;        // name the stacks of all call sites, not only those with open sockets
    bool progress;     // on stderr, when symbols take longer than a second
};

#define REPORT_OPTIONS_DEFAULT                                                                     \
    { .grace_ms = 1000 }

// Once, after the last addition. Fails for a suppression or baseline file that cannot be read.
int report_finish(struct report *report, const struct report_options *options);

// Sockets that fail the run: of these groups, neither suppressed nor in the baseline.
uint64_t report_failures(const struct report *report, uint32_t fail_on);

// --- rendering ----------------------------------------------------------------------------------

enum format {
    FORMAT_TEXT,
    FORMAT_JSON,
    FORMAT_JUNIT,
    FORMAT_SARIF,
    FORMAT_GITHUB,
    FORMAT_FOLDED,
    FORMAT_PPROF,
    FORMAT_COUNT
};

struct render_options {
    bool show_all;        // open sockets, too
    bool color;           // text
    bool verbose;         // text: unused rules, processes without findings
    bool explain;         // text: draw how each connection ended, or did not
    bool sites;           // text: a table of the call sites
    bool time_wait;       // text: who closes first, also where it does not matter
    uint32_t width;       // text: columns of the terminal, 0 any
    uint32_t max_sockets; // text: listed per finding, and per thread
    const char *program;  // text: what was run, for the headline of several processes; or NULL
};

#define RENDER_OPTIONS_DEFAULT                                                                     \
    { .max_sockets = 10 }

// Writes a finished report. -EIO where `out` takes no more (said on stderr).
int report_write(const struct report *report, enum format format, FILE *out,
                 const struct render_options *options);

// "eof-ignored" and the like: the inverse of the names in report/. VERDICT_COUNT where unknown.
enum verdict verdict_named(const char *name);
const char *report_ended_name(enum report_ended ended); // "_exit"

// The call that a stack belongs to: "accept4", "unknown".
const char *report_birth_call(const struct report_socket *socket);

// The program as its user called it, for headlines: argv[0], or the executable, or "process 12".
const char *report_program(const struct report_process *process);

uint32_t report_finding_hints(const struct report_finding *finding); // of any of its sockets

// The frame to point at: the first in the project's own code (with a source file outside of system
// directories), else the first with a function. NULL where there is none. Of a finding: where end
// of stream was read, since there the close is missing, else where it was opened.
const struct report_frame *report_own_frame(const struct report_stack *stack);
const struct report_frame *report_finding_frame(const struct report_finding *finding);

#endif
