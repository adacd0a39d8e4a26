"""Where `run` keeps ledgers, on file systems that are none to map a file of: a full btrfs, whose every
write takes new room, raises SIGBUS in who writes to a mapped file.

The btrfs is a file of 128 MB behind a loop device, mounted in a mount namespace of its own.
"""

import glob
import os
import re
import shutil
import subprocess
import unittest

import harness
from harness import EXAMPLES, LIBRARY, SOCKLEAK

LEAKS = os.path.join(EXAMPLES, "forgotten_close")


class Btrfs(harness.TestCase):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0 or not shutil.which("mkfs.btrfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            self.skipTest("needs root and mkfs.btrfs")
        self.image, self.disk = self.path("image"), self.path("disk")
        os.mkdir(self.disk)
        with open(self.image, "wb") as file:
            file.truncate(128 << 20)
        self.env = harness.clean_environment(PATH=os.environ["PATH"] + ":/usr/sbin:/sbin", DISK=self.disk)
        subprocess.run(["mkfs.btrfs", "-q", self.image], env=self.env, capture_output=True, check=True)
        probe = self.on_disk("true")
        if probe.returncode != 0:
            self.skipTest("no btrfs can be mounted here: " + probe.stderr.strip())

    def on_disk(self, script):
        """Runs a shell script where $DISK is the btrfs."""
        return subprocess.run(["unshare", "--mount", "sh", "-c", f'mount -o loop "{self.image}" "$DISK" || exit\n{script}'],
                              env=self.env, capture_output=True, text=True, timeout=harness.DEADLINE_S, check=False)

    FILL = 'dd if=/dev/urandom of="$DISK/full" bs=64k 2>/dev/null; sync -f "$DISK"\n'

    def test_a_program_on_a_full_one_makes_its_own_report(self):
        done = self.on_disk(self.FILL + f'SOCKLEAK_OPTIONS="ledger_dir=$DISK" LD_PRELOAD={LIBRARY} {LEAKS}; echo status $?; '
                            'ls "$DISK"')
        self.assertEqual(done.stdout.split()[-3:], ["status", "0", "full"], done.stderr)
        self.assertIn("eof-ignored", done.stderr)

    def test_run_copies_the_ledgers_in_the_end(self):
        done = self.on_disk(f'{SOCKLEAK} run --ledger-dir="$DISK/kept" {LEAKS}; echo status $?; ls "$DISK/kept"; '
                            f'du -k "$DISK"/kept/*.ledger; {SOCKLEAK} report "$DISK/kept"')
        self.assertRegex(done.stdout, r"status 23\n\d+-\d+\.ledger\n", done.stderr)
        self.assertIn("sockets left in CLOSE_WAIT", done.stdout)
        (kilobytes,) = re.findall(r"^(\d+)\t", done.stdout, re.M)
        self.assertLess(int(kilobytes), 4096)  # of some 200 MB, nearly all holes

    def test_a_ledger_for_which_there_is_no_room_is_named_and_stays(self):
        done = self.on_disk(f'mkdir "$DISK/kept"\n{self.FILL}{SOCKLEAK} run --ledger-dir="$DISK/kept" {LEAKS}; '
                            'echo status $?; ls "$DISK/kept"')
        self.assertRegex(done.stdout, r"status 23\n$", done.stderr)
        self.assertIn("eof-ignored", done.stderr)
        (left,) = re.findall(r"sockleak: warning: (\S+\.ledger): stays here: No space left on device", done.stderr)
        self.assertTrue(os.path.exists(left))
        for name in glob.glob(os.path.dirname(left) + "/*"):
            os.unlink(name)
        os.rmdir(os.path.dirname(left))


if __name__ == "__main__":
    harness.main()
