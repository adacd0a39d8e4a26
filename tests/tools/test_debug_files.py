"""Debug information in files of its own, found by build id as distributions lay them out."""

import json
import os
import re
import shutil
import subprocess
import unittest

import harness
from harness import SOCKLEAK

PLACE = "/usr/lib/debug"


@unittest.skipUnless(harness.may_make_mounts() and shutil.which("objcopy"),
                     "needs root for a mount namespace, and binutils")
class BuildId(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.source = harness.read(os.path.join(harness.ROOT, "examples", "forgotten_close.c"))
        shutil.copy(os.path.join(harness.ROOT, "examples", "peer.h"), self.directory)
        self.program = self.compile("program", self.source, "-O1", "-pthread", "-D_GNU_SOURCE", "-w", "-Wl,--build-id=sha1")
        notes = subprocess.run(["readelf", "-n", self.program], capture_output=True, text=True, check=True).stdout
        self.build_id = re.search(r"Build ID: ([0-9a-f]+)", notes)[1]
        self.debug = self.path("debug", ".build-id", self.build_id[:2], self.build_id[2:] + ".debug")
        os.makedirs(os.path.dirname(self.debug))
        subprocess.run(["objcopy", "--only-keep-debug", self.program, self.debug], check=True)
        subprocess.run(["strip", self.program], check=True)
        if not os.path.isdir(PLACE):
            self.skipTest(f"no {PLACE} to mount over")

    def report(self, mounted=True):
        """Frames of the birth, with our tree mounted where distributions have theirs."""
        ledgers = self.path("ledgers")
        if not os.path.exists(ledgers):
            subprocess.run([SOCKLEAK, "run", "-q", "--ledger-dir", ledgers, self.program], check=False, stdout=subprocess.DEVNULL,
                           env=harness.clean_environment())
        mount = f"mount --bind {self.path('debug')} {PLACE} || exit 77; " if mounted else ""
        done = subprocess.run(["unshare", "-m", "sh", "-c", f"{mount}exec {SOCKLEAK} report --format=json {ledgers}"],
                              capture_output=True, text=True, check=False, env=harness.clean_environment())
        if done.returncode == 77:
            self.skipTest("may not mount here")
        (process,) = json.loads(done.stdout)["processes"]
        return process["findings"][0]["birth"]["stack"], json.loads(done.stdout)["notes"]

    def line_of(self, frame):
        return self.source.splitlines()[frame["line"] - 1]

    def test_without_them_there_are_offsets(self):
        frames, _ = self.report(mounted=False)
        self.assertIsNone(frames[0]["line"])
        self.assertEqual(frames[0]["build_id"], self.build_id)

    def test_functions_and_lines_of_a_stripped_program(self):
        frames, notes = self.report()
        self.assertTrue(frames[0]["file"].endswith("program.c"), frames[0])
        self.assertIn("accept", self.line_of(frames[0]))
        self.assertIn(frames[0]["function"], self.source)
        self.assertEqual(notes, [])

    def test_of_a_program_that_is_gone(self):
        self.report(mounted=False)
        os.unlink(self.program)
        frames, _ = self.report()
        self.assertIn("accept", self.line_of(frames[0]))

    def test_another_builds_file_in_its_place_is_not_believed(self):
        self.report(mounted=False)
        other = self.compile("other", "int main(void) { return 0; }", "-Wl,--build-id=sha1")
        subprocess.run(["objcopy", "--only-keep-debug", other, self.debug], check=True)
        os.unlink(self.program)
        frames, notes = self.report()
        self.assertIsNone(frames[0]["function"])
        self.assertTrue(any(self.program in note for note in notes), notes)


if __name__ == "__main__":
    harness.main()
