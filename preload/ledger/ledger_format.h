// The ledger, byte by byte: the contract between the library, which writes it, and the tools, which
// read it from a file or out of a live process. Shared with tools/.
//
// A ledger is one range of addresses (or of file offsets): a header page, then eight regions at
// fixed places. Only the committed front of a region may be read; it grows while the program runs.
// All numbers are in the machine's byte order. All times are nanoseconds of CLOCK_MONOTONIC
// (clock_gettime(2)); the header ties them to the date.
//
// Readers: every index, offset and count in here may be wrong, torn or hostile. Check each against
// the region's committed size, copy before use, and trust no string to end.
#ifndef SOCKLEAK_LEDGER_FORMAT_H
#define SOCKLEAK_LEDGER_FORMAT_H

#include <stdint.h>

#define LEDGER_MAGIC "SOCKLEAK" // 8 bytes, no NUL
enum {
    LEDGER_VERSION = 3,
    LEDGER_HEADER_BYTES = 4096,
    LEDGER_EXE_BYTES = 512,
    LEDGER_CMDLINE_BYTES = 1536,
    LEDGER_STACK_DEPTH_MAX = 128,
    LEDGER_NO_STACK = 0, // stack ids and record numbers start at 1
    LEDGER_BUCKET_COUNT = 4096,
    LEDGER_LIFETIME_BUCKETS = 40, // see ledger_stack.lifetimes
    LEDGER_RECENT_SLOTS = 16, // of LEDGER_RECENT_SLOT_S seconds each: what TIME_WAIT keeps, and one
    LEDGER_RECENT_SLOT_S = 4,
    LEDGER_DESTINATION_COUNT = 1024,
};

enum ledger_region_id {
    LEDGER_FDS,          // uint32_t: fd -> record number, 0 for none
    LEDGER_RECORDS,      // struct ledger_record, number 0 unused
    LEDGER_BUCKETS,      // uint32_t: hash -> id of the first stack of its chain
    LEDGER_STACKS,       // struct ledger_stack, id 0 unused
    LEDGER_FRAMES,       // uint64_t: the frames of all stacks
    LEDGER_MODULES,      // struct ledger_module, number 0 unused
    LEDGER_STRINGS,      // NUL-terminated, offset 0 is ""
    LEDGER_DESTINATIONS, // struct ledger_destination, a hash table of LEDGER_DESTINATION_COUNT
    LEDGER_REGIONS
};

struct ledger_region {
    uint64_t offset;         // bytes from the header
    uint64_t reserved_bytes; // may grow up to here
    uint64_t committed_bytes;
    uint64_t used; // elements handed out (strings: bytes); FDS: highest fd ever stored, plus 1
};

// The call that made a socket, or told of its end: see report/names.h. A number that had another
// meaning once is not used again.
enum ledger_call {
    CALL_UNKNOWN, // we did not see it
    CALL_SOCKET,
    CALL_SOCKETPAIR,
    CALL_ACCEPT,
    CALL_ACCEPT4,
    CALL_RECVMSG,
    CALL_RECVMMSG,
    CALL_PIDFD_GETFD,
    CALL_READ = 13,
    CALL_READV,
    CALL_RECV,
    CALL_RECVFROM,
    CALL_PREADV2,
    CALL_SPLICE,
    CALL_SHUTDOWN,
    CALL_COUNT
};

// How the process came by the socket.
enum ledger_provenance {
    PROVENANCE_CREATED,  // socket, socketpair, accept
    PROVENANCE_RECEIVED, // SCM_RIGHTS, pidfd_getfd
    PROVENANCE_ADOPTED,  // first seen in use: connect, or an end of stream
    PROVENANCE_FOUND,    // first seen by a report: born out of our sight
};

enum ledger_record_flags {
    RECORD_SHUT_RD = 1 << 0,        // own shutdown(SHUT_RD) or SHUT_RDWR
    RECORD_SHUT_WR = 1 << 1,        // own shutdown(SHUT_WR) or SHUT_RDWR
    RECORD_CONNECTED = 1 << 2,      // accept made it, or connect returned 0
    RECORD_CONNECTING = 1 << 3,     // connect returned EINPROGRESS or was interrupted
    RECORD_SHUTTING_RD = 1 << 4,    // own shutdown(SHUT_RD) was begun
    RECORD_FIN_FIRST = 1 << 5,      // own shutdown sent our FIN before the peer's had come
    RECORD_FIN_SECOND = 1 << 6,     // and after it; neither: not known
    RECORD_CONNECT_FAILED = 1 << 7, // connect returned an error of the network's: refused, timeout
    RECORD_FIN_IS_BOUND = 1 << 8,   // the FIN came at fin_ns, or before: see track/endings.h
    RECORD_TELLING_EOF = 1 << 9,    // a thread writes the end of stream down, or has
    RECORD_TELLING_ERROR = 1 << 10, // the same of an error
    RECORD_EOF_UNASKED = 1 << 11,   // a read returned 0: the kernel was not asked yet what it means
    RECORD_FIN_ASSUMED = 1 << 12,   // FIN_FIRST, FIN_SECOND: as of another socket of the call site
};

// How a socket ended, in ledger_record.ending; and, of an active close, for how long our last bytes
// had had no answer. 0 ms: they had one.
enum ledger_ending {
    ENDING_UNKNOWN,
    ENDING_PASSIVE,
    ENDING_ACTIVE,
    ENDING_RESET,
    ENDING_CONNECTING,
    ENDING_SHARED,
};
#define LEDGER_ENDING(kind, waited_ms) ((uint32_t)(waited_ms) << 8 | (uint32_t)(kind))
#define LEDGER_ENDING_KIND(ending) ((ending)&0xffu)
#define LEDGER_ENDING_WAITED_MS(ending) ((ending) >> 8)
enum {
    LEDGER_ENDING_WAITED_MAX_MS = 0xffffff
};

enum ledger_address_family {
    ADDRESS_NONE = 0,
    ADDRESS_INET = 4,
    ADDRESS_INET6 = 6
};

struct ledger_address {
    uint8_t family; // enum ledger_address_family
    uint8_t unused;
    uint16_t port; // host order
    uint32_t scope_id;
    uint8_t ip[16]; // network order, 4 or 16 bytes of it
};

enum ledger_snapshot_flags {
    SNAPSHOT_TAKEN = 1 << 0,
    SNAPSHOT_HAS_TCP_INFO = 1 << 1,
    SNAPSHOT_HAS_QUEUES = 1 << 2,
    SNAPSHOT_WAS_CONNECTED = 1 << 3,   // the counters say that it was ESTABLISHED once
    SNAPSHOT_HELD_BY_PARENT = 1 << 4,  // the process that forked us still has it open, too
    SNAPSHOT_STANDARD_STREAM = 1 << 5, // not seen born, and its only fds are 0, 1 or 2
    SNAPSHOT_READER_WENT_ON = 1 << 6,  // who read end of stream ends the process, or is gone
    SNAPSHOT_AGE_IS_BOUND = 1 << 7,    // state_age_ms may be too high: nothing tells when it began
    SNAPSHOT_READER_SEEN_SINCE = 1 << 8, // who read end of stream has opened or read another since
    SNAPSHOT_DATA_SENT = 1 << 9,         // by this side, ever
    SNAPSHOT_DATA_RECEIVED = 1 << 10,    // by this side, ever
    SNAPSHOT_ERROR_PENDING = 1 << 11,    // CLOSE, by an error that the program was not told yet
};

// Properties of a socket that make a leak likelier or last longer; known where `properties_known`.
enum ledger_properties {
    PROPERTY_NO_READ_TIMEOUT = 1 << 0, // blocking, and SO_RCVTIMEO is unset: socket(7)
    PROPERTY_NO_KEEPALIVE = 1 << 1,    // neither SO_KEEPALIVE nor TCP_USER_TIMEOUT: tcp(7)
    PROPERTY_NO_CLOEXEC = 1 << 2,      // every program that is exec'd gets it: fcntl(2), F_GETFD
    PROPERTY_BLOCKING_MODE = 1 << 3,   // O_NONBLOCK is unset: fcntl(2), F_GETFL
    PROPERTY_UNREAD_DATA = 1 << 4,     // bytes wait in the receive queue
};

// Why a socket was not closed: see report/cause.h.
enum ledger_cause {
    CAUSE_UNKNOWN,
    CAUSE_FORGOTTEN,
    CAUSE_BLOCKED,
    CAUSE_IDLE_POOL,
    CAUSE_INHERITED,
    CAUSE_HALF_CLOSE,
    CAUSE_COUNT
};

// The kernel's states of a TCP socket (include/net/tcp_states.h), as TCP_INFO gives them.
enum ledger_tcp_state {
    STATE_UNKNOWN,
    STATE_ESTABLISHED,
    STATE_SYN_SENT,
    STATE_SYN_RECV,
    STATE_FIN_WAIT1,
    STATE_FIN_WAIT2,
    STATE_TIME_WAIT,
    STATE_CLOSE,
    STATE_CLOSE_WAIT,
    STATE_LAST_ACK,
    STATE_LISTEN,
    STATE_CLOSING,
};

// A thread that is in no system call.
enum ledger_thread_call {
    THREAD_CALL_RUNNING = -1,
    THREAD_CALL_GONE = -2, // as the thread itself
};

// The kernel's view of an open socket at the time of a report.
struct ledger_snapshot {
    uint64_t taken_ns;
    uint32_t recv_queue_bytes; // FIONREAD: unread data, without the FIN
    uint32_t send_queue_bytes; // SIOCOUTQ: sent or to be sent, and not acknowledged
    uint32_t state_age_ms;     // how long it has been in this state, as far as can be known
    uint32_t last_data_sent_ms;
    uint32_t last_data_recv_ms;
    uint8_t state; // enum ledger_tcp_state
    uint8_t verdict;
    uint16_t flags;
    // What the thread was doing that used the socket last, as far as is known:
    // /proc/PID/task/TID/syscall.
    uint32_t thread;         // whose these are; 0 where nothing is known of it
    int32_t thread_call;     // number of the system call it is in, or enum ledger_thread_call
    int32_t thread_fd;       // the fd that the call waits on; -1 for none
    uint32_t thread_fd_type; // 1: a socket of the ledger, see thread_fd_record; 0: not known
    uint32_t thread_fd_record;
    uint16_t properties; // enum ledger_properties
    uint8_t properties_known;
    uint8_t cause; // enum ledger_cause
};

// The inode of a socket that is known by its fd alone as yet: see track/unasked.h. Never in a file.
#define LEDGER_INODE_UNASKED UINT64_MAX

// One socket. Freed records have inode 0 and are used again.
struct ledger_record {
    uint64_t inode;
    uint64_t birth_ns;
    uint64_t eof_ns; // end of stream, first time; 0 for never
    uint64_t
        fin_ns; // when the peer's FIN came, where TCP_INFO told it at the end of stream; else 0
    uint64_t shutdown_ns;
    uint64_t error_ns;
    uint32_t birth_stack;
    uint32_t eof_stack;
    uint32_t shutdown_stack;
    uint32_t error_stack;
    uint32_t birth_tid;
    uint32_t eof_tid;
    uint32_t holders; // fds that refer to it, plus threads that are looking at it; 0 is free
    uint32_t next_free;
    uint32_t generation; // grows each time the record is used for another socket
    uint32_t process;    // the header's `process` when it was born or last touched
    uint8_t birth_call;
    uint8_t eof_call;
    uint8_t error_call;
    uint8_t provenance;
    uint16_t error; // errno that told the program of the connection's death; 0 for none
    uint16_t flags;
    uint16_t family, type, protocol; // as for socket(2); family 0 where not known yet
    uint16_t fd_count;               // at the snapshot
    int32_t first_fd;                // at the snapshot
    uint32_t forks; // the header's `forks` at birth: unlike now, a child may hold the socket too
    uint32_t fds_closed; // of its fds, while others stayed open
    uint32_t ending;     // as it looked at the last close: see LEDGER_ENDING
    struct ledger_address local, peer;
    struct ledger_snapshot snapshot;
};

// A distinct backtrace. frames[0] is where the program called us.
struct ledger_stack {
    uint64_t hash;
    uint32_t first_frame; // index into LEDGER_FRAMES
    uint16_t depth;
    uint16_t flags;
    uint64_t opened;  // sockets born here
    uint64_t closed;  // and closed properly
    uint32_t next;    // in the chain of its hash bucket
    uint32_t unloads; // how many dlclose calls had been seen when its frames were last checked

    // How the sockets born here ended. Of `closed`, the rest ended otherwise or in a way not known.
    uint64_t closed_passive;    // after the peer's FIN
    uint64_t closed_active;     // first: TIME_WAIT is on this side (RFC 9293, 3.6)
    uint64_t closed_reset;      // after a reset or another death, or by one: data was not read
    uint64_t closed_connecting; // before the connection was made: a connect timeout, or given up
    // A child made by fork may have held it too: nothing is known. Also, without being among
    // `opened` and `closed`, those that a fork left to this process.
    uint64_t closed_shared;
    uint64_t gave_up;         // of the active: our last bytes had no answer (a read timeout)
    uint64_t gave_up_ms;      // and how long that had been, summed
    uint32_t lifetime_max_ms; // of the closed ones
    uint32_t close_stack;     // of a recent active close
    // Lifetimes of the closed ones. Bucket 2n holds [2^n, 1.5*2^n) ms, 2n+1 holds [1.5*2^n,
    // 2^(n+1)); bucket 0 also what is shorter than 1 ms, the last one all that is longer.
    uint32_t lifetimes[LEDGER_LIFETIME_BUCKETS];
    // Active closes of the last minute: slot number (CLOCK_MONOTONIC seconds /
    // LEDGER_RECENT_SLOT_S, low 32 bits) << 32 | count, at index slot number % LEDGER_RECENT_SLOTS.
    uint64_t recent_active[LEDGER_RECENT_SLOTS];
};

// Active closes of one birth stack towards one peer that this program connected to. Entries are
// never taken back; what found no place is in counters.destinations_lost.
struct ledger_destination {
    struct ledger_address peer;
    uint32_t stack; // birth stack; 0: a free entry
    uint32_t state; // 0 free, 1 being written, 2 valid
    uint64_t closed_active;
    uint64_t recent_active[LEDGER_RECENT_SLOTS]; // as in ledger_stack
};

enum ledger_stack_flags {
    STACK_DEPTH_REACHED = 1 << 0,  // deeper than stack_depth: the outermost frames are missing
    STACK_CALL_SITE_ONLY = 1 << 1, // no unwinder, or the guard was held: one frame
    STACK_SAMPLED = 1 << 2 // how its sockets ended is known of some, and taken for the others
};

// A frame is a return address: look its line up at the byte before. The top 16 bits are the
// module's number, the rest the offset in it (address minus load bias: what addr2line takes).
// Module 0: a plain address that no module covered, such as a JIT's.
#define LEDGER_FRAME(module, offset) ((uint64_t)(module) << 48 | ((offset)&0xffffffffffffu))
#define LEDGER_FRAME_MODULE(frame) ((uint32_t)((frame) >> 48))
#define LEDGER_FRAME_OFFSET(frame) ((frame)&0xffffffffffffu)

struct ledger_module {
    uint64_t start, end; // addresses, end exclusive
    uint64_t bias;       // runtime address minus the address in the file
    uint32_t path;       // offset into LEDGER_STRINGS
    uint32_t build_id_bytes;
    uint8_t build_id[20];
    uint32_t unloads; // how many dlclose calls had been seen when it was recorded
};

enum ledger_ended {
    ENDED_RUNNING,
    ENDED_EXIT,
    ENDED_QUICK_EXIT,
    ENDED_UNDERSCORE_EXIT,
    ENDED_SIGNAL,
};

// The kinds of exhaustion that make a report of their own: see report/exhaustion.h.
enum ledger_exhaustion {
    EXHAUSTED_NOTHING,
    EXHAUSTED_PROCESS_FDS,    // EMFILE
    EXHAUSTED_SYSTEM_FDS,     // ENFILE
    EXHAUSTED_PORTS,          // EADDRNOTAVAIL
    EXHAUSTED_MEMORY,         // ENOBUFS, ENOMEM
    EXHAUSTED_MAX_OPEN,       // the option's threshold
    EXHAUSTED_MAX_CLOSE_WAIT, // the option's threshold
    EXHAUSTED_LEAK_AFTER,     // the option: a socket in CLOSE_WAIT for that long
    EXHAUSTED_KINDS
};

// Counters only grow, while the ledger does not begin anew. Of the sockets with a record,
//     inherited + born + found = closed + closed_unseen + open now.
// What we could not do stands here too, and in every report.
struct ledger_counters {
    uint64_t born;
    uint64_t inherited; // open when a fork made this process
    uint64_t found;     // first seen by a report
    uint64_t closed;
    uint64_t closed_unseen;              // the fd referred to something else when we next looked
    uint64_t untracked_records;          // no room for a record
    uint64_t untracked_fds;              // fd beyond the table
    uint64_t stacks_lost;                // no room for a stack
    uint64_t stacks_call_site;           // captured as one frame
    uint64_t reports_skipped;            // asked for while another was written
    uint64_t snapshots_lost;             // no memory to look at all sockets
    uint64_t destinations_lost;          // active closes that found no place among the destinations
    uint64_t exhausted[EXHAUSTED_KINDS]; // how often
};

struct ledger_header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint32_t record_bytes, stack_bytes, module_bytes, destination_bytes; // of the structures above
    uint32_t pid, parent_pid;
    uint32_t process; // 1, and one more in each forked child: tells inherited records. Also one
                      // more where a ledger began anew (file_cut_ns)
    uint32_t ended;   // enum ledger_ended
    int32_t end_status;
    uint64_t start_time_ticks; // /proc/PID/stat field 22; 0 unknown
    uint64_t created_ns;       // CLOCK_MONOTONIC, together with
    uint64_t created_epoch_ns; // CLOCK_REALTIME
    uint64_t snapshot_ns;      // the last report; 0 for none
    uint64_t free_record;      // tag << 32 | record number: head of the free list
    uint64_t unloads;          // dlclose calls seen, and far more where a ledger began anew
    struct ledger_region regions[LEDGER_REGIONS];
    struct ledger_counters counters;
    char boot_id[40];
    uint32_t cmdline_bytes; // NUL-separated, as in /proc/PID/cmdline
    uint32_t stack_depth;   // options in force, from here
    uint32_t families;      // enum option_families
    uint32_t grace_ms, exit_grace_ms;
    uint32_t forks;   // fork, vfork and posix_spawn calls so far; a forked child counts on
    uint64_t exec_ns; // when the last exec began; 0: none did, or it failed
    char exe[LEDGER_EXE_BYTES]; // NUL-terminated
    char cmdline[LEDGER_CMDLINE_BYTES];
    // Written by `sockleak run` into a ledger that it keeps, of a process that ended without a
    // report: when it was found gone. 0: not known.
    uint64_t gone_ns;
    // When the file that this ledger was in turned out to have been truncated, or not to be read.
    // All that was known before is lost: the ledger began anew, as `created_ns` says. 0: it was
    // not.
    uint64_t file_cut_ns;
};

_Static_assert(sizeof(struct ledger_header) <= LEDGER_HEADER_BYTES, "header fits its page");
_Static_assert(sizeof(struct ledger_record) == 224, "a record's size is part of the format");
_Static_assert(sizeof(struct ledger_stack) == 392, "a stack's size is part of the format");
_Static_assert(sizeof(struct ledger_module) == 56, "a module's size is part of the format");
_Static_assert(sizeof(struct ledger_destination) == 168,
               "a destination's size is part of the format");

// Where a tool finds the ledger of a live process: the library exports one object of this type,
// named `sockleak_ledger_locator`. Read it with process_vm_readv(2).
struct ledger_locator {
    char magic[8];
    uint64_t address; // of the header; 0 while there is none
    uint64_t bytes;   // reserved, header included
};

#endif
