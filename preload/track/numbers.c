// Which socket an fd is: births entered, closes, and copies.
#include "base/clock.h"
#include "track/endings.h"
#include "track/tracking.h"

// --- entering -----------------------------------------------------------------------------------

static bool knows_origin(const struct ledger_record *record) {
    return record->provenance == PROVENANCE_CREATED || record->provenance == PROVENANCE_RECEIVED;
}

// Is what stands at `fd` right, and `number` no better? A program that closes a number twice may
// close what another thread has just opened, before that thread is here; the number's next owner is
// here first then. And who adopts a socket in use may meet the birth that comes late. Of two births
// that both find the same socket there the last one stays: it may have been closed behind our back,
// and received again.
//
// Of two that were not asked for their inodes the one is right that was born last.
static bool is_settled(int fd, const struct ledger_record *there, uint32_t number) {
    uint64_t inode = unasked_socket_inode(fd), its_inode = ledger_inode(there);
    const struct ledger_record *other = ledger_record(number);
    uint64_t others_inode = number ? ledger_inode(other) : 0;
    if (inode == 0 || (its_inode != LEDGER_INODE_UNASKED && its_inode != inode))
        return false;
    if (others_inode == LEDGER_INODE_UNASKED)
        return its_inode == inode ? knows_origin(there) : there->birth_ns > other->birth_ns;
    return number == 0 || others_inode != inode || !knows_origin(other);
}

// What is right never gives way to what is late, not even for a moment: it would be gone where
// another thread comes then that is late, too, or copies the number. So what stands there is held
// while the kernel is asked, which makes sure that its number is no other socket's meanwhile, and
// is replaced only if it still stands there. Each time around another thread has entered something.
COLD void number_enter_beside(int fd, uint32_t number) {
    if (number && ledger_fd_reserve(fd) < 0) {
        ledger_release_vanished(number);
        return;
    }
    for (bool done = false; !done;) {
        uint32_t there = ledger_fd_hold(fd);
        bool stays = there == number || (there && is_settled(fd, ledger_record(there), number));
        done = stays || ledger_fd_replace(fd, there, number);
        if (there)
            ledger_release(there); // the look
        uint32_t gone = stays ? number : there;
        if (done && gone)
            ledger_release_vanished(gone);
    }
}

// --- deaths -------------------------------------------------------------------------------------

// Takes the socket off the table, and asks how it ends while it is still there. A second thread
// that closes the same number meanwhile finds nothing in the table.
static HOT uint32_t take_off(int fd, const void *caller, uint64_t now_ns) {
    uint32_t was = ledger_fd_take(fd);
    if (LIKELY(was))
        ending_note(was, fd, caller, now_ns);
    return was;
}

static HOT FLAT NOINLINE void close_known(int fd, const void *caller) {
    tell_activity(); // not behind it: a report must not find the socket open, and in no table
    uint64_t now_ns = clock_now_ns();
    uint32_t was = take_off(fd, caller, now_ns);
    if (LIKELY(was))
        ledger_release_closed(was, now_ns);
}

HOT void tracker_closing(int fd, const void *caller) {
    if (tracker_active() && ledger_fd(fd) != 0 && tracking_go_on())
        close_known(fd, caller);
}

void tracker_closing_range(unsigned first, unsigned last, const void *caller) {
    if (!tracker_active() || !tracking_go_on())
        return;
    unsigned limit = (unsigned)ledger_fd_limit();
    for (unsigned fd = first; fd < limit && fd <= last; fd++)
        tracker_closing((int)fd, caller);
}

// --- dup ----------------------------------------------------------------------------------------

uint32_t tracker_dup_begin(int fd) {
    uint32_t number = tracker_active() && tracking_go_on() ? ledger_fd_hold(fd) : 0;
    // By two fds it is not known by its number any more. Not asked: another thread has just closed
    // it, and whose copy the dup makes is for a report to find out.
    if (number && UNLIKELY(unasked_inode(number, fd) == LEDGER_INODE_UNASKED)) {
        ledger_release(number);
        return 0;
    }
    return number;
}

void tracker_dup_done(uint32_t kept, int fd) {
    if (!tracker_active())
        return;
    if (fd >= 0)
        number_enter(fd, kept); // also where kept is 0: whatever was there is there no more
    else if (kept)
        ledger_release(kept);
}

uint32_t tracker_replace_begin(int fd, const void *caller) {
    bool is_known = tracker_active() && tracking_go_on() && ledger_fd(fd) != 0;
    return is_known ? take_off(fd, caller, clock_now_ns()) : 0;
}

void tracker_replace_done(uint32_t kept, int fd, bool replaced) {
    if (kept && replaced)
        ledger_release(kept);
    else if (kept && !ledger_fd_restore(fd, kept))
        number_enter(fd, kept); // another thread was here: one of the two is late
}
