#!/usr/bin/env python3
"""An aarch64 example under the library, by qemu's user mode: test_emulated.py BUILD ROOT.

The kernel is this machine's, so /proc tells of qemu: frames have the example's offsets and qemu's
name, and what asks /proc/self/exe, ptrace or TCP_INFO beyond qemu's struct is out of reach. What is
proven: the system calls, the relocations of libunwind's imports, and that stacks are walked."""

import re
import shutil
import subprocess
import sys
import unittest

QEMU = "qemu-aarch64-static"
BUILD, ROOT = sys.argv[1:3] if len(sys.argv) > 2 else (None, None)


def run(example):
    return subprocess.run([QEMU, "-L", ROOT, "-E", f"LD_PRELOAD={BUILD}/libsockleak.so",
                           f"{BUILD}/examples/{example}"], capture_output=True, text=True, timeout=60)


@unittest.skipUnless(BUILD, "usage: test_emulated.py BUILD ROOT")
@unittest.skipUnless(shutil.which(QEMU), f"{QEMU} is missing")
class Emulated(unittest.TestCase):
    def test_a_leak_is_found_with_its_stacks(self):
        done = run("forgotten_close")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"3 sockets, eof-ignored")
        self.assertNotIn("could not be unwound", done.stderr)
        stacks = re.findall(r"#0 .*\n.*#1 .*", done.stderr)
        self.assertEqual(len(stacks), 2, done.stderr)  # of the birth, and of the end of stream

    def test_a_clean_program_has_no_report(self):
        done = run("clean_short_client")
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
