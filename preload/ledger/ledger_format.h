// The ledger, byte by byte: the contract between the library, which writes it, and the tools, which
// read it from a file or out of a live process. Shared with tools/.
//
// A ledger is one range of addresses (or of file offsets): a header page, then seven regions at
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
    LEDGER_VERSION = 2,
    LEDGER_HEADER_BYTES = 4096,
    LEDGER_EXE_BYTES = 512,
    LEDGER_CMDLINE_BYTES = 1536,
    LEDGER_STACK_DEPTH_MAX = 128,
    LEDGER_NO_STACK = 0, // stack ids and record numbers start at 1
    LEDGER_BUCKET_COUNT = 4096,
};

enum ledger_region_id {
    LEDGER_FDS,     // uint32_t: fd -> record number, 0 for none
    LEDGER_RECORDS, // struct ledger_record, number 0 unused
    LEDGER_BUCKETS, // uint32_t: hash -> id of the first stack of its chain
    LEDGER_STACKS,  // struct ledger_stack, id 0 unused
    LEDGER_FRAMES,  // uint64_t: the frames of all stacks
    LEDGER_MODULES, // struct ledger_module, number 0 unused
    LEDGER_STRINGS, // NUL-terminated, offset 0 is ""
    LEDGER_REGIONS
};

struct ledger_region {
    uint64_t offset;         // bytes from the header
    uint64_t reserved_bytes; // may grow up to here
    uint64_t committed_bytes;
    uint64_t used; // elements handed out (strings: bytes); FDS: highest fd ever stored, plus 1
};

// What happened to a socket. Also the name of the call that did it: see report/names.h.
enum ledger_call {
    CALL_UNKNOWN, // we did not see it
    CALL_SOCKET,
    CALL_SOCKETPAIR,
    CALL_ACCEPT,
    CALL_ACCEPT4,
    CALL_RECVMSG,
    CALL_RECVMMSG,
    CALL_PIDFD_GETFD,
    CALL_CONNECT,
    CALL_DUP,
    CALL_DUP2,
    CALL_DUP3,
    CALL_FCNTL,
    CALL_READ,
    CALL_READV,
    CALL_RECV,
    CALL_RECVFROM,
    CALL_PREADV2,
    CALL_SPLICE,
    CALL_SHUTDOWN,
    CALL_SYSCALL,
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
    RECORD_SHUT_RD = 1 << 0,     // own shutdown(SHUT_RD) or SHUT_RDWR
    RECORD_SHUT_WR = 1 << 1,     // own shutdown(SHUT_WR) or SHUT_RDWR
    RECORD_CONNECTED = 1 << 2,   // accept made it, or connect returned 0
    RECORD_CONNECTING = 1 << 3,  // connect returned EINPROGRESS or was interrupted
    RECORD_SHUTTING_RD = 1 << 4, // own shutdown(SHUT_RD) was begun
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
};

// One socket. Freed records have inode 0 and are used again.
struct ledger_record {
    uint64_t inode;
    uint64_t birth_ns;
    uint64_t eof_ns; // end of stream, first time; 0 for never
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
    uint32_t unused[3];
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
    uint32_t unused[6];
};

enum ledger_stack_flags {
    STACK_DEPTH_REACHED = 1 << 0, // deeper than stack_depth: the outermost frames are missing
    STACK_CALL_SITE_ONLY = 1 << 1 // no unwinder, or the guard was held: one frame
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

// Counters only grow. Of the sockets with a record,
//     inherited + born + found = closed + closed_unseen + open now.
// What we could not do stands here too, and in every report.
struct ledger_counters {
    uint64_t born;
    uint64_t inherited; // open when a fork made this process
    uint64_t found;     // first seen by a report
    uint64_t closed;
    uint64_t closed_unseen;     // the fd referred to something else when we next looked
    uint64_t untracked_records; // no room for a record
    uint64_t untracked_fds;     // fd beyond the table
    uint64_t stacks_lost;       // no room for a stack
    uint64_t stacks_call_site;  // captured as one frame
    uint64_t reports_skipped;   // asked for while another was written
    uint64_t snapshots_lost;    // no memory to look at all sockets
};

struct ledger_header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint32_t record_bytes, stack_bytes, module_bytes; // sizes of the structures above
    uint32_t pid, parent_pid;
    uint32_t process; // 1, and one more in each forked child: tells inherited records
    uint32_t ended;   // enum ledger_ended
    int32_t end_status;
    uint64_t start_time_ticks; // /proc/PID/stat field 22; 0 unknown
    uint64_t created_ns;       // CLOCK_MONOTONIC, together with
    uint64_t created_epoch_ns; // CLOCK_REALTIME
    uint64_t snapshot_ns;      // the last report; 0 for none
    uint64_t free_record;      // tag << 32 | record number: head of the free list
    uint64_t unloads;          // dlclose calls seen
    struct ledger_region regions[LEDGER_REGIONS];
    struct ledger_counters counters;
    char boot_id[40];
    uint32_t cmdline_bytes;     // NUL-separated, as in /proc/PID/cmdline
    uint32_t stack_depth;       // options in force
    char exe[LEDGER_EXE_BYTES]; // NUL-terminated
    char cmdline[LEDGER_CMDLINE_BYTES];
};

_Static_assert(sizeof(struct ledger_header) <= LEDGER_HEADER_BYTES, "header fits its page");
_Static_assert(sizeof(struct ledger_record) == 192, "a record's size is part of the format");
_Static_assert(sizeof(struct ledger_stack) == 64, "a stack's size is part of the format");
_Static_assert(sizeof(struct ledger_module) == 56, "a module's size is part of the format");

// Where a tool finds the ledger of a live process: the library exports one object of this type,
// named `sockleak_ledger_locator`. Read it with process_vm_readv(2).
struct ledger_locator {
    char magic[8];
    uint64_t address; // of the header; 0 while there is none
    uint64_t bytes;   // reserved, header included
};

#endif
