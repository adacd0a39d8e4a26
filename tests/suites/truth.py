"""Whether the reports of a witnessed pass agree with the kernel: socket for socket, at the end of
each process."""

import os
from dataclasses import dataclass

import harness

CLOSE_WAIT_VERDICTS = ("eof-ignored", "fin-unread", "data-unread")
DEAD_VERDICTS = ("reset-unclosed", "shutdown-unclosed")
DEAD_STATES = ("CLOSE", "LAST_ACK", "TIME_WAIT", "CLOSING")
# A state that changed between the report and the end of the process, some milliseconds later.
RECENT_MS = 500
AF_UNIX = 1


@dataclass(frozen=True)
class Socket:
    fd: int
    inode: int
    domain: int
    peer_ended: bool
    state: str  # of TCP; "" for other sockets
    quiet_ms: int
    local: str
    peer: str

    def __str__(self):
        return f"fd {self.fd} {self.local} {self.peer} {self.state or 'no TCP'} " \
               f"(inode {self.inode}, quiet for {self.quiet_ms} ms)"


def endings(directory):
    """pid -> {fd: Socket} of each process that ended, as its last thread left it; None where the
    kernel did not tell all. A pid that ended twice is left out."""
    ended = {}
    for name in sorted(os.listdir(directory)):
        for line in harness.read_text(os.path.join(directory, name)).splitlines():
            kind, *rest = line.split()
            if kind == "exit":
                ended[int(rest[0])] = {}
            elif kind == "unknown":
                ended[int(rest[0])] = None
            elif kind == "socket" and ended[int(rest[0])] is not None:
                pid, fd, inode, domain, _, peer_ended, state, quiet, local, peer = rest
                ended[int(pid)][int(fd)] = Socket(
                    int(fd), int(inode), int(domain), peer_ended == "1",
                    "" if state == "-" else harness.STATES.get(int(state), state),
                    0 if quiet == "-" else int(quiet), local, peer)
    return ended


def address_of(text):
    """A report's scope ids and the kernel's are the same; `?` is no address."""
    return None if text in (None, "?", "-") else text


def check_finding(finding, kernel):
    """What is wrong with a leak, as the kernel sees it."""
    for listed in finding.sockets:
        actual = kernel.get(listed.fd)
        if actual is None:
            yield f"{finding.verdict}: fd {listed.fd} is no socket: {listed.text}"
        elif actual.domain == AF_UNIX:
            if not actual.peer_ended:
                yield f"{finding.verdict}, but the peer has not ended: {actual}"
        elif finding.verdict in CLOSE_WAIT_VERDICTS and actual.state != "CLOSE_WAIT" and not (
                actual.state in DEAD_STATES and actual.quiet_ms < RECENT_MS):
            yield f"{finding.verdict}, but {actual}"
        elif finding.verdict in DEAD_VERDICTS and actual.state not in DEAD_STATES:
            yield f"{finding.verdict}, but {actual}"
        elif actual.state == "CLOSE_WAIT" and \
                (address_of(listed.local), address_of(listed.peer)) != (actual.local, actual.peer):
            yield f"{listed.text}, but {actual}"


def check_process(report, kernel):
    """Disagreements between the last report of a process and its end."""
    for finding in report.leaks:
        yield from check_finding(finding, kernel)
    if not report.when.startswith("at "):
        return
    listed = {socket.fd: finding.verdict for finding in report.findings
              for socket in finding.sockets}
    for actual in kernel.values():
        # Several fds of one socket are listed under the first.
        verdicts = [listed[other.fd] for other in kernel.values()
                    if other.inode == actual.inode and other.fd in listed]
        if actual.state != "CLOSE_WAIT":
            continue
        if not verdicts:
            yield f"not reported: {actual}"
        # What was inherited may be the parent's to close.
        elif actual.quiet_ms > RECENT_MS and not report.summary["inherited"] and \
                not set(verdicts) & set(CLOSE_WAIT_VERDICTS):
            yield f"called {' and '.join(verdicts)}, but {actual}"


def check(run):
    """Of a witnessed pass: how many processes were compared, how many reported, disagreements."""
    ended, compared, problems = endings(run.kernel), 0, []
    every = run.text_reports()
    for pid, reports in every.items():
        kernel, last = ended.get(pid), reports[-1]
        if kernel is None or not last.summary:
            continue
        compared += 1
        problems += [f"{last.program} ({pid}), report {last.when}: {problem}"
                     for problem in check_process(last, kernel)]
    return compared, len(every), problems
