"""sockleak run on every example: verdict, count, and file and line of both calls.

expected/NAME.txt says what must come out, one finding a line:

    COUNT VERDICT CALL FUNCTION FILE:LINE [CALL FUNCTION FILE:LINE of the end of stream, or -]

or `nothing`. It is held to the source, too: the line has the call, and the first comment's
`expect:` line says the same, or its `with sockleak run:` line where the command knows more than the
library alone. `cause:` lines are held to the JSON, `exhausted:` lines to what is
said when it happens.
"""

import glob
import json
import os
import re

import harness
from harness import EXAMPLES, ROOT, sockleak

HERE = os.path.dirname(os.path.abspath(__file__))
EXPECT = re.compile(r"^ \* (expect|with sockleak run): (?:nothing|(\d+ \S+) birth=(\S+) eof=(\S+)(?: process=(\w+))?)$",
                    re.M)
CAUSE = re.compile(r"^ \* cause: (\S+)$", re.M)
EXHAUSTED = re.compile(r"^ \* exhausted: (.+)$", re.M)
SKIPPED = 77


def source_lines(path):
    return harness.read(os.path.join(ROOT, path)).splitlines()


def place_of(event):
    """CALL FUNCTION FILE:LINE of the first frame, - where the report has no such stack."""
    if event is None:
        return "-"
    frame = event["stack"][0]
    return f"{event['call']} {frame['function']} {frame['file']}:{frame['line']}"


def told(document):
    return "\n".join(sorted(
        f"{f['count']} {f['verdict']} {place_of(f['birth'])} {place_of(f['end_of_stream'])}"
        for p in document["processes"] for f in p["findings"])) or "nothing"


class Examples(harness.TestCase):
    def expected(self, name):
        return harness.read(os.path.join(HERE, "expected", name + ".txt")).strip()

    def check_against_source(self, name, expected):
        """A mistake in expected/ must not be what makes the test pass."""
        said = list(EXPECT.finditer(harness.read(os.path.join(ROOT, "examples", name + ".c"))))
        self.assertTrue(said, f"examples/{name}.c has no expect: line")
        said = [m for m in said if m[1] != "expect"] or said
        if expected == "nothing":
            self.assertEqual([m[2] for m in said], [None])
            return
        comments = sorted(" ".join(m[i].replace(":", " ") for i in (2, 3, 4)) for m in said)
        self.assertEqual(comments, sorted(re.sub(r" \S+:\d+", "", e) for e in expected.splitlines()))
        for call, file, line in re.findall(r"(\S+) \S+ (\S+):(\d+)", expected):
            self.assertRegex(source_lines(file)[int(line) - 1], rf"\b{call}\(", f"{file}:{line}")

    def check(self, name):
        expected, report = self.expected(name), self.path("report.json")
        self.check_against_source(name, expected)
        done = sockleak("run", f"--format=json:{report}", "--", os.path.join(EXAMPLES, name), cwd=ROOT)
        if done.returncode == SKIPPED:
            self.skipTest(done.stderr)
        document = json.loads(harness.read(report))
        self.assertEqual(told(document), expected, done.stderr)
        self.assertEqual(done.returncode, 0 if expected == "nothing" else 23, done.stderr)
        self.check_text(expected, done.stderr)
        self.check_exhausted(name, done.stderr)
        self.check_cause(name, document)

    def check_cause(self, name, document):
        said = CAUSE.findall(harness.read(os.path.join(ROOT, "examples", name + ".c")))
        causes = {f["cause"] for p in document["processes"] for f in p["findings"]}
        if said:
            self.assertEqual(causes, set(said))

    def check_exhausted(self, name, text):
        """With whose call site has most, once."""
        for what in EXHAUSTED.findall(harness.read(os.path.join(ROOT, "examples", name + ".c"))):
            self.assertEqual(len(re.findall(rf"(?m)^==\d+== sockleak: {re.escape(what)} \(E.* from this stack.*\n"
                                            r"==\d+==     #0 ", text)), 1, text)

    def check_text(self, expected, text):
        """What is printed says the same as the JSON."""
        self.assertEqual(len(re.findall(r"(?m)^==\d+== \d+ sockets?, [a-z-]+: ", text)),
                         0 if expected == "nothing" else len(expected.splitlines()), text)
        for line in expected.splitlines() if expected != "nothing" else []:
            count, verdict = line.split()[:2]
            self.assertRegex(text, rf"\b{count} sockets?, {verdict}: ")
            for call, function, place in re.findall(r"(\S+) (\S+) (\S+:\d+)", line):
                self.assertRegex(text, rf"by {call}\n==\d+==     #0 {function} +{re.escape(place)}\n")

    def test_no_example_is_left_out(self):
        names = {os.path.basename(path)[:-2] for path in glob.glob(os.path.join(ROOT, "examples", "*.c"))}
        expected = {os.path.basename(path)[:-4] for path in glob.glob(os.path.join(HERE, "expected", "*.txt"))}
        self.assertEqual(names, expected)

    def test_the_leak_of_a_forked_parent_is_the_parents(self):
        report = self.path("report.json")
        sockleak("run", "-q", f"--format=json:{report}", os.path.join(EXAMPLES, "fork_parent"))
        document = json.loads(harness.read(report))
        (guilty,) = [p for p in document["processes"] if p["findings"]]
        self.assertEqual({p["ppid"] for p in document["processes"] if p is not guilty}, {guilty["pid"]})
        self.assertEqual(len(document["processes"]), 5)  # itself, the clients, three children
        (finding,) = guilty["findings"]
        self.assertEqual(finding["cause"], "inherited")
        self.assertIn("close it after fork", finding["cause_text"])


def add_tests():
    for path in sorted(glob.glob(os.path.join(HERE, "expected", "*.txt"))):
        name = os.path.basename(path)[:-4]
        setattr(Examples, f"test_{name}", lambda self, name=name: self.check(name))


add_tests()

if __name__ == "__main__":
    harness.main()
