"""What the end-to-end tests share: run a program bare or preloaded, read the text report as
findings, and ask the kernel which sockets a process has, in which state.

The truth about a socket is always the kernel's own table: the inodes in /proc/PID/fd, and the
states in sock_diag or /proc/net/tcp and tcp6. Nothing here reads a ledger or links against the library.

Environment: BUILD is the build directory (default: build/ of this tree), CC the compiler.
"""

import ipaddress
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
LIBRARY = os.path.join(BUILD, "libsockleak.so")
PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
PYTHON = "/usr/bin/python3"
SKIPPED = 77

DEADLINE_S = 30  # of everything that is waited for
EXIT_GRACE_MS = 100  # the library's defaults
GRACE_MS = 1000


# --- a test file ----------------------------------------------------------------------------------


def skip_file(reason):
    """Ends the test file that is being run or imported: status 77 and the reason."""
    if os.path.basename(sys.argv[0]).startswith("test_"):
        print(f"{os.path.basename(sys.argv[0])}: skipped: {reason}", file=sys.stderr)
        sys.exit(SKIPPED)
    raise unittest.SkipTest(reason)


def need(*programs):
    """The programs without which this test file has nothing to say."""
    if not os.path.exists(LIBRARY):
        sys.exit(f"{LIBRARY} does not exist: build it first, and set BUILD")
    missing = [name for name in programs if not find_program(name)]
    if missing:
        skip_file(f"not installed: {', '.join(missing)} (`make deps`)")


def find_program(name):
    # Debian's servers live in sbin, which an ordinary user's PATH lacks.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def main():
    unittest.main(verbosity=2)


class TestCase(unittest.TestCase):
    """A test with a directory of its own, whose processes do not outlive it."""

    maxDiff = None

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="sockleak-e2e-")
        os.chmod(self.directory, 0o755)  # servers drop privileges
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def start(self, argv, **settings):
        """A Program that is killed, should it still run, when the test ends."""
        program = Program(argv, self.directory, **settings)
        self.addCleanup(program.kill)
        return program

    def assertSilent(self, result, bare):
        """Preloaded, the program did what it did bare, and the library had nothing to say."""
        self.assertSame(result, bare)
        self.assertEqual(result.reports, [])

    def assertSame(self, result, bare):
        """Same exit status and output as bare; on stderr too, but for the report."""
        self.assertEqual(describe_status(result.status), describe_status(bare.status), result.stderr)
        self.assertEqual(result.stdout, bare.stdout)
        self.assertEqual(result.other_stderr, bare.stderr)

    def only_report(self, result):
        self.assertEqual(len(result.reports), 1, result.stderr)
        return result.reports[0]

    def only_finding(self, report):
        self.assertEqual(len(report.findings), 1, report.text)
        return report.findings[0]


# --- running programs -----------------------------------------------------------------------------


@dataclass
class Result:
    """A program that has ended. A negative status is the signal it died of."""

    pid: int
    status: int
    stdout: str
    stderr: str
    ended_at: float
    reports: list = field(init=False)
    other_stderr: str = field(init=False)

    def __post_init__(self):
        self.reports, self.other_stderr = parse_reports(self.stderr)


def describe_status(status):
    return f"death by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def environment(preload=True, options=None, more=None):
    env = {key: value for key, value in os.environ.items()
           if key not in ("LD_PRELOAD", "SOCKLEAK_OPTIONS")}
    env.update({"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"})
    if preload:
        env["LD_PRELOAD"] = LIBRARY
        if options:
            env["SOCKLEAK_OPTIONS"] = options
    env.update(more or {})
    return env


def allow_many_files():
    """To run in a child: as many descriptors as the hard limit grants."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Program:
    """A running program. Its stdin is a pipe, its output goes to files that can be read while it
    runs. The programs in programs/ print `port N` when they listen, and end when stdin ends."""

    def __init__(self, argv, directory, preload=True, options=None, env=None, many_files=False,
                 cwd=None):
        self.argv = [find_program(argv[0]) or argv[0], *argv[1:]]
        output, self.stdout_path = tempfile.mkstemp(prefix="stdout-", dir=directory)
        errors, self.stderr_path = tempfile.mkstemp(prefix="stderr-", dir=directory)
        # Servers that dropped privileges open their stderr again by its name in /proc.
        os.fchmod(errors, 0o666)
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=output, stderr=errors, cwd=cwd or directory,
            env=environment(preload, options, env),
            preexec_fn=allow_many_files if many_files else None)
        os.close(output)
        os.close(errors)
        self.pid = self.process.pid

    def stdout(self):
        return read_text(self.stdout_path)

    def stderr(self):
        return read_text(self.stderr_path)

    def running(self):
        return self.process.poll() is None

    def wait_for(self, what, condition):
        """Polls until the condition is true, and returns its value."""
        def checked():
            value = condition()
            if not value and not self.running():
                value = condition()  # it may have come true with the end
                if not value:
                    raise AssertionError(f"{self.argv} ended with {self.process.returncode} before "
                                         f"{what}\n{self.stdout()}{self.stderr()}")
            return value
        try:
            return wait_until(what, checked)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.stdout()}{self.stderr()}") from None

    def wait_line(self, pattern):
        """Waits for a line on stdout, and returns the match."""
        return self.wait_for(f"the line {pattern}",
                             lambda: re.search(f"^{pattern}\n", self.stdout(), re.M))

    def port(self):
        return int(self.wait_line(r"port (\d+)")[1])

    def wait_listening(self, port):
        self.wait_for(f"port {port} listens",
                      lambda: any(s.state == "LISTEN" and s.local_port == port
                                  for pid in tree_of(self.pid) for s in sockets_of(pid)))

    def sockets(self, state=None):
        return [s for s in sockets_of(self.pid) if state in (None, s.state)]

    def wait_state(self, state, count):
        """Waits until exactly so many sockets of the process are in the state; returns them."""
        self.wait_for(f"{count} sockets in {state}", lambda: len(self.sockets(state)) == count)
        return self.sockets(state)

    def reports(self):
        """The reports that are complete by now."""
        return [r for r in parse_reports(self.stderr(), unfinished=True)[0] if r.summary]

    def wait_report(self, count=1):
        """Waits for so many reports in all, and returns the last."""
        self.wait_for(f"{count} reports", lambda: len(self.reports()) >= count)
        return self.reports()[count - 1]

    def signal(self, number):
        self.process.send_signal(number)

    def close_stdin(self):
        self.process.stdin.close()

    def end(self, number=None):
        """Ends its stdin, or sends it a signal, and waits for the end."""
        if number:
            self.signal(number)
        elif not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv} does not end\n{self.stdout()}{self.stderr()}") \
                from None
        ended_at = time.monotonic()
        self.process.stdin.close()
        return Result(self.pid, self.process.returncode, self.stdout(), self.stderr(), ended_at)

    def kill(self):
        """Kills it and what it started, if it still runs."""
        if not self.running():
            return
        for pid in tree_of(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process.stdin.close()


def run(argv, directory, **settings):
    """Runs a program that ends by itself."""
    program = Program(argv, directory, **settings)
    try:
        return program.end()
    finally:
        program.kill()


def compile_c(name, directory):
    """programs/NAME.c, compiled with its function names."""
    target = os.path.join(directory, name)
    subprocess.run([os.environ.get("CC", "cc"), "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra",
                    "-Werror", "-I", os.path.join(ROOT, "examples"), "-pthread", "-o", target,
                    os.path.join(PROGRAMS, name + ".c")], check=True)
    return target


def wait_until(what, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_S} s for: {what}")
        time.sleep(0.005)
    return value


def wait_age(since, age_ms):
    """Waits until something that happened at `since` (time.monotonic()) is so old. For what has no
    state to poll: the library's grace periods."""
    time.sleep(max(0, since + age_ms / 1000 - time.monotonic()))


def read_text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


# --- the kernel's table ---------------------------------------------------------------------------

STATES = {1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2",
          6: "TIME_WAIT", 7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING"}


@dataclass(frozen=True)
class KernelSocket:
    fd: int
    inode: int
    state: str
    local: str  # as a report writes it: 127.0.0.1:80, [::1]:80
    peer: str

    @property
    def local_port(self):
        return int(self.local.rsplit(":", 1)[1])


def written(data, port):
    """An address of 4 or 16 bytes and a port, as a report writes them."""
    if len(data) == 4:
        return f"{ipaddress.IPv4Address(data)}:{port}"
    address = ipaddress.IPv6Address(data)
    text = f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)
    return f"[{text}]:{port}"


def proc_address(text):
    """An address of /proc/net/tcp: words of 32 bits, each in the machine's byte order."""
    ip, port = text.split(":")
    words = [int(ip[i:i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(ip), 8)]
    return written(b"".join(words), int(port, 16))


def proc_table():
    table = {}
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            part = line.split()
            if part[3] == "06":  # TIME_WAIT: no process's any more
                continue
            table[int(part[9])] = (STATES[int(part[3], 16)], proc_address(part[1]),
                                   proc_address(part[2]))
    return table


# sock_diag(7)
SOCK_DIAG_BY_FAMILY, NLMSG_ERROR, NLMSG_DONE = 20, 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_HEADER = struct.Struct("=IHHII")
DIAG_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2
DIAG_ANSWER = struct.Struct("=BBBBHH16s16s12xIIIII")  # inet_diag_msg
WANTED_STATES = sum(1 << state for state, name in STATES.items() if name != "TIME_WAIT")


def diag_answers(family):
    """The inet_diag_msg of each TCP socket of the family. Raises OSError without sock_diag."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:  # NETLINK_SOCK_DIAG
        diag.settimeout(DEADLINE_S)
        request = DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, WANTED_STATES)
        diag.send(NLMSG_HEADER.pack(NLMSG_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY,
                                    NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + request)
        while True:
            data = diag.recv(1 << 16)
            while data:
                length, kind, _, _, _ = NLMSG_HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise OSError("sock_diag is not available")
                yield DIAG_ANSWER.unpack_from(data, NLMSG_HEADER.size)
                data = data[(length + 3) & ~3:]


def diag_table():
    table = {}
    for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        for answer in diag_answers(family):
            local, peer = (written(answer[at + 2][:length], socket.ntohs(answer[at]))
                           for at in (4, 5))
            table[answer[-1]] = (STATES.get(answer[1], "NEW_SYN_RECV"), local, peer)
    return table


def kernel_table():
    """inode -> (state, local, peer) of every TCP socket of this network namespace that a process
    may have open. By sock_diag, which need not print what is in TIME_WAIT (tens of thousands,
    after test_many), or from /proc/net/tcp where the kernel has no sock_diag."""
    try:
        return diag_table()
    except OSError:
        return proc_table()


def socket_inodes(pid):
    """fd -> inode of the sockets that a process has open."""
    inodes = {}
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
            except FileNotFoundError:
                continue
            if link.startswith("socket:["):
                inodes[int(fd)] = int(link[8:-1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return inodes


def sockets_of(pid):
    """The TCP sockets of a process, by fd."""
    inodes = socket_inodes(pid)
    if not inodes:
        return []
    table = kernel_table()
    return [KernelSocket(fd, inode, *table[inode])
            for fd, inode in sorted(inodes.items()) if inode in table]


def children_of(pid):
    children = []
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            children += map(int, read_text(f"/proc/{pid}/task/{tid}/children").split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return children


def tree_of(pid):
    """A process and all its descendants."""
    return [pid] + [p for child in children_of(pid) for p in tree_of(child)]


def free_port():
    """A port that was free a moment ago, for servers that cannot tell which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port, host="127.0.0.1"):
    return socket.create_connection((host, port), timeout=DEADLINE_S)


def ask(port, question=b"hello\n"):
    """One well-behaved client of programs/: asks, reads the whole answer, closes."""
    with connect(port) as client:
        client.sendall(question)
        with client.makefile("rb") as answer:
            return answer.readline()


def in_threads(count, body):
    """Runs body(number) in so many threads; raises what one of them raised."""
    errors = []

    def guarded(number):
        try:
            body(number)
        except Exception as error:  # handed to the caller
            errors.append(error)
    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- the text report ------------------------------------------------------------------------------


@dataclass
class Frame:
    function: str  # None where the report has ??
    module: str


@dataclass
class Stack:
    call: str
    frames: list = field(default_factory=list)

    @property
    def function(self):
        return self.frames[0].function if self.frames else None

    def __str__(self):
        return f"{self.call}:{self.function}"


@dataclass
class ListedSocket:
    fd: int
    local: str
    peer: str
    accepted: bool
    text: str


@dataclass
class Finding:
    count: int
    verdict: str
    birth: Stack = None  # None: origin unknown
    end_of_stream: Stack = None
    error: Stack = None
    shutdown: Stack = None
    why: str = ""
    sockets: list = field(default_factory=list)
    more: int = 0


@dataclass
class Report:
    pid: int
    when: str = ""
    program: str = ""
    exhausted: str = ""  # what ran out, where that made the report
    close_wait: int = 0
    dead: int = 0
    announced: int = 0  # findings, says the headline
    findings: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    summary: dict = None
    text: str = ""
    stack: Stack = None  # the one whose frames are being read

    @property
    def leaks(self):
        return [f for f in self.findings if f.verdict not in
                ("open", "fin-wait", "never-connected")]


PREFIX = re.compile(r"==(\d+)==(?: |$)(.*)$")
HEADLINE = re.compile(
    r"sockleak: (?:no socket leaked|(?:(?P<cw>\d+) sockets? left in CLOSE_WAIT)?(?: and )?"
    r"(?:(?P<dead>\d+) sockets? dead but not closed)?)(?: \((?P<findings>\d+) findings?\))? "
    r"(?P<when>at .+? (?:of|in)) (?P<program>.+)$")
EXHAUSTED = re.compile(r"sockleak: (.+) \((E[A-Z]+)\): ")
NOTE = re.compile(r"sockleak: (.+)$")
FINDING = re.compile(r"(\d+) sockets?, ([a-z-]+)(?:: .+)?$")
STACK = re.compile(r"  (opened by|received by|end of stream read by|shut down by|"
                   r"E[A-Z]+ returned by) (\w+)(?: \(stack not recorded\))?$")
UNKNOWN = re.compile(r"  origin unknown: ")
WHY = re.compile(r"  why: (\S.*)$")
FRAME = re.compile(r"    #(\d+) (?:\?\?|(\S.*?)\+0x[0-9a-f]+) +(?:(\S.*?) \(\+0x[0-9a-f]+\)|"
                   r"0x[0-9a-f]+ \(in no file.*)$")
SOCKET = re.compile(r"  fd (\d+)(?:,\d+)*(?: \(and \d+ more\))? +(?:(\S+) (<-|->|-) (\S+)|unix)"
                    r"   \S.*$")
MORE = re.compile(r"  \.\.\. and (\d+) more$")
SUMMARY = re.compile(
    r"summary: (?P<leaked>\d+) leaked \((?P<close_wait>\d+) close-wait, (?P<dead>\d+) dead\), "
    r"(?P<open>\d+) open, (?:(?P<inherited>\d+) inherited, )?(?P<closed>\d+) closed properly; "
    r"(?P<not_tracked>\d+) not tracked$")


def add_line(report, line):
    """Reads one line of a report. A line that no pattern knows is an error of the report."""
    finding = report.findings[-1] if report.findings else None
    if match := FINDING.match(line):
        report.findings.append(Finding(int(match[1]), match[2]))
        report.stack = None
    elif match := STACK.match(line):
        report.stack = Stack(match[2])
        attribute = {"opened by": "birth", "received by": "birth",
                     "end of stream read by": "end_of_stream",
                     "shut down by": "shutdown"}.get(match[1], "error")
        setattr(finding, attribute, report.stack)
    elif UNKNOWN.match(line):
        report.stack = None
    elif match := WHY.match(line):
        finding.why = match[1]
    elif match := FRAME.match(line):
        assert int(match[1]) == len(report.stack.frames), f"frames out of order: {line}"
        report.stack.frames.append(Frame(match[2], match[3]))
    elif match := SOCKET.match(line):
        finding.sockets.append(ListedSocket(int(match[1]), match[2], match[4], match[3] == "<-",
                                            line))
    elif match := MORE.match(line):
        finding.more = int(match[1])
    elif match := SUMMARY.match(line):
        report.summary = {name: int(value or 0) for name, value in match.groupdict().items()}
    elif match := NOTE.match(line):
        report.notes.append(match[1])
    elif line:
        raise AssertionError(f"not a line of a report: {line!r}")


def check_totals(report):
    """The headline, the findings and the summary must tell the same story."""
    leaks = sum(f.count for f in report.leaks)
    assert report.summary, f"a report without its summary:\n{report.text}"
    assert leaks == report.close_wait + report.dead == report.summary["leaked"], report.text
    assert report.close_wait == report.summary["close_wait"], report.text
    assert report.dead == report.summary["dead"], report.text
    assert len(report.leaks) == report.announced, report.text
    for finding in report.findings:
        assert len(finding.sockets) + finding.more == finding.count, report.text


def parse_reports(text, unfinished=False):
    """The reports in a program's stderr, in the order of their headlines, and the text that is not
    ours. Notes outside a report make a Report without summary. The lines of several processes may
    be mixed. `unfinished`: the program still runs, the last report may be incomplete."""
    reports, others, current = [], [], {}
    for full_line in text.splitlines(keepends=True):
        match = PREFIX.match(full_line.rstrip("\n"))
        if not match:
            others.append(full_line)
            continue
        pid, line = int(match[1]), match[2]
        if unfinished and not full_line.endswith("\n"):
            continue
        assert full_line.isascii(), f"not ASCII: {full_line!r}"
        headline, exhausted = HEADLINE.match(line), EXHAUSTED.match(line)
        report = current.get(pid)
        goes_on = headline and report and report.exhausted and not report.summary
        if (headline or exhausted or report is None) and not goes_on:
            notes = report.notes if report and not report.when else []
            if report and not report.when:
                reports.remove(report)
            report = current[pid] = Report(pid, notes=notes)
            reports.append(report)
        report.text += full_line
        if exhausted:  # its worst stack follows; a headline only where something has leaked
            report.when, report.exhausted = f"at {exhausted[2]}", exhausted[1]
            report.stack = Stack("")
        elif headline:
            report.when, report.program = headline["when"], headline["program"]
            report.close_wait = int(headline["cw"] or 0)
            report.dead = int(headline["dead"] or 0)
            report.announced = int(headline["findings"] or 0)
        else:
            add_line(report, line)
    for report in reports:
        if report.when and not (unfinished and not report.summary):
            check_totals(report)
    return reports, "".join(others)
