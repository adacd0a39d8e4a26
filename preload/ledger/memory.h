// What lies below the ledger, for those three that change it: ledger.c (creation and growth), cut.c
// (a file that somebody truncates) and fork.c (a child's own). Signal-safe.
#ifndef SOCKLEAK_LEDGER_MEMORY_H
#define SOCKLEAK_LEDGER_MEMORY_H

#include "ledger/backing.h"
#include "ledger/ledger.h"

enum {
    GROWTH_MAX_BYTES = 1 << 20 // of one step of a region
};

// What ledger.header points into. Written before it.
extern struct backing ledger_backing;

// Where each region is, how far it may grow, and how far its addresses are ours. Kept here, and not
// in the ledger: its file may be cut, and a forked child's is a copy of an earlier moment.
struct ledger_extent {
    uint64_t offset;
    uint64_t limit_bytes;  // may be lowered at any time
    uint64_t backed_bytes; // under cut_claim()
};
extern struct ledger_extent ledger_extents[LEDGER_REGIONS];

// True in a signal handler that interrupted the growth of a region in this thread.
bool ledger_is_growing_here(void);

uint64_t ledger_element_bytes(enum ledger_region_id region);

// What a region reserves at full size, divided as often as `shift` says; and how often that must be
// under a limit on addresses.
uint64_t ledger_reserve_bytes(enum ledger_region_id region, unsigned shift);
unsigned ledger_shift_under(uint64_t limit_bytes);

// Private memory, zeroed, or NULL.
void *ledger_map_anonymous(uint64_t bytes);

// Who this process is, and since when its ledger is.
void ledger_describe_process(struct ledger_header *header);

// There is none from here on, and later births do not try to make one.
void ledger_give_up(void);

// --- cut.c --------------------------------------------------------------------------------------

// The header as it was made, or as it should be once more where the file is cut: nothing that stood
// in the file can be read then. The first one is filled before the file is touched.
extern struct ledger_header cut_header;
void cut_keep_header(void);

// Before the memory is: how much of a region is about to be writable, and how many of its elements
// are about to be handed out.
void cut_note_writable(enum ledger_region_id region, uint64_t bytes);
void cut_note_handed_out(enum ledger_region_id region, uint64_t elements);

// How much of a region was ever about to be writable, in this process or before its fork.
uint64_t cut_writable_bytes(enum ledger_region_id region);

// Nobody mends a cut file from the first to the second. False: somebody does just now. The file
// must not be touched in between.
bool cut_claim(void);
void cut_release(void);

// True where the header cannot be the ledger's: the file was cut, and is longer again or its last
// page is left. No signal tells of that.
bool cut_is_header_gone(void);

// True where `error` of backing_commit(), or the header, came of a cut that is mended now.
bool cut_was_met(int error);

// True where the file is none of ours any more, or about to be: nobody may copy what is there.
bool cut_is_file_being_left(void);

// In a forked child: a thread that had begun to mend its parent's ledger is not in this process.
void cut_continue_in_child(void);

#endif
